//! The user's objects exactly as written, each with the file and line of every field.
//!
//! Text goes `yaml` -> `node` -> `read` -> `object`; `store` keeps the last good version. `istio`, `kubernetes` and `value` are
//! the types; `validate` judges one object as Istio's admission does; `re2` tells regexes that Istio takes from others. What
//! the objects mean together is `model`'s.

pub mod istio;
pub mod kubernetes;
pub mod re2;
pub mod value;

mod foreign;
mod node;
mod object;
mod parallel;
mod read;
mod scalar;
mod store;
mod time;
mod typed;
mod validate;
mod yaml;

#[cfg(test)]
mod tests;

pub use node::{Position, Positions, push_field};
pub use object::{Created, Key, Kind, Manifest, Object, ObjectName, Origin, Specs};
pub use parallel::{Reading, Source, read_all};
pub use read::{FileSpecs, Item, Outcome, read, refused};
pub use store::{Change, Store};
pub use validate::allocates_address;
