//! Tests of the whole way from text to objects.

use std::sync::Arc;

use super::*;
use crate::finding::{Severity, code};

fn parse(text: &str) -> FileSpecs {
    read(&Arc::from("a.yaml"), text)
}

#[test]
fn smoke() {
    let file =
        parse("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80}]\n");
    assert_eq!(file.findings, []);
    assert_eq!(file.items.len(), 1);
    let _ = (Severity::Error, code::INVALID);
}
