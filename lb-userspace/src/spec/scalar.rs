//! What an unquoted YAML scalar means: null, bool, number or text.
//!
//! Kubernetes' own YAML reader decides here (YAML 1.1 words for bools among them), because the files are Kubernetes' files.

use serde_json::Number;

use super::node::Value;

/// Resolves a plain (unquoted, untagged) scalar.
pub fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    match number(&text) {
        Some(number) => Value::Number(number),
        None => Value::Text(text),
    }
}

fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return None;
    }
    // Underscores may part digits, but not where a dot comes first.
    let parted = !text.starts_with('.') && text.contains('_');
    integer(text).or_else(|| if parted { float(&text.replace('_', "")) } else { float(text) })
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        // YAML 1.1: a leading zero is octal.
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let magnitude = u64::from_str_radix(&digits, radix).ok()?;
    match negative {
        false => Some(Number::from(magnitude)),
        true => i64::try_from(-i128::from(magnitude)).ok().map(Number::from),
    }
}

fn float(text: &str) -> Option<Number> {
    let mut digits = false;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => digits = true,
            b'.' | b'-' | b'+' | b'e' | b'E' => {}
            _ => return None,
        }
    }
    // `f64::from_str` wants what JSON and YAML share; infinities have no JSON form and stay text.
    digits.then(|| text.parse::<f64>().ok()).flatten().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers() {
        let text = |text: &str| Value::Text(text.into());
        let number = |number: i64| Value::Number(Number::from(number));
        let cases = [
            ("", Value::Null),
            ("~", Value::Null),
            ("yes", Value::Bool(true)),
            ("Off", Value::Bool(false)),
            ("y", Value::Bool(true)),
            ("N", Value::Bool(false)),
            ("1_000.5", Value::Number(Number::from_f64(1000.5).unwrap())),
            ("9000", number(9000)),
            ("-5", number(-5)),
            ("+5", number(5)),
            ("0x1f", number(31)),
            ("010", number(8)),
            ("1_000", number(1000)),
            ("5.0", Value::Number(Number::from_f64(5.0).unwrap())),
            ("1e3", Value::Number(Number::from_f64(1000.0).unwrap())),
            ("10.1.0.2", text("10.1.0.2")),
            ("-", text("-")),
            (".", text(".")),
            ("0x", text("0x")),
            ("_1", text("_1")),
            ("1s", text("1s")),
            ("089", Value::Number(Number::from_f64(89.0).unwrap())),
            ("v1", text("v1")),
            ("2024-01-01T00:00:00Z", text("2024-01-01T00:00:00Z")),
            ("18446744073709551615", Value::Number(Number::from(u64::MAX))),
            (".inf", text(".inf")),
        ];
        for (input, expected) in cases {
            assert_eq!(plain(input.to_owned()), expected, "{input:?}");
        }
    }
}
