//! Finds the compiled kernel programs, which `cargo xtask build` makes, and hands their path to `include_bytes!`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=MELTEMI_BPF_OBJECT");
    let object = env::var_os("MELTEMI_BPF_OBJECT").map_or_else(
        || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../target/bpf/meltemi.bpf.o"),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => println!("cargo::rustc-env=MELTEMI_BPF_OBJECT_PATH={}", path.display()),
        Err(error) => {
            println!(
                "cargo::error=the kernel programs are not built ({}: {error}); run `cargo xtask build`",
                object.display()
            );
        }
    }
}
