//! Values that several fields share: durations, string matches, percentages, bytes. As written; limits are `validate`'s.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error};

/// A span of time, in nanoseconds as Go counts them: up to 292 years either way.
///
/// Written as Go's `time.ParseDuration` takes it, which is what Istio's reader and its CRDs use: `1.5s`, `100ms`, `1h30m`,
/// `-1s`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(i64);

impl Duration {
    pub const ZERO: Duration = Duration(0);
    pub const MILLISECOND: Duration = Duration(1_000_000);
    pub const SECOND: Duration = Duration(1_000_000_000);

    pub const fn from_millis(milliseconds: i64) -> Duration {
        Duration(milliseconds * 1_000_000)
    }

    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// The same span for timers; a negative one is none at all. Admission refuses negative ones wherever they matter.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Whether it is so many whole `unit`s.
    pub const fn is_whole(self, unit: Duration) -> bool {
        self.0 % unit.0 == 0
    }
}

/// The text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration; write it like 1.5s, 100ms or 1h30m")]
pub struct NotADuration(String);

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Duration, NotADuration> {
        nanoseconds(text).map(Duration).ok_or_else(|| NotADuration(text.to_owned()))
    }
}

fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        total = total.checked_add(scaled(number, unit_nanoseconds(unit)?)?)?;
        rest = after;
    }
    i64::try_from(sign * total).ok()
}

fn unit_nanoseconds(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        // Both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `12.5` units, cut off below a nanosecond.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Thirteen digits are more than an hour has nanoseconds.
    let digits = &fraction[..fraction.len().min(13)];
    let part: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = 10i128.pow(u32::try_from(digits.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(part * unit / scale)
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// In the largest units that are whole: `1h30m`, `1.5s`, `100ms`, `0s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let left = self.0.unsigned_abs();
        let (hours, left) = (left / 3_600_000_000_000, left % 3_600_000_000_000);
        let (minutes, left) = (left / 60_000_000_000, left % 60_000_000_000);
        f.write_str(sign)?;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if left == 0 && hours + minutes > 0 {
            return Ok(());
        }
        match left {
            left if left >= 1_000_000_000 || left == 0 => write!(f, "{}s", left as f64 / 1e9),
            left if left >= 1_000_000 => write!(f, "{}ms", left as f64 / 1e6),
            left if left >= 1_000 => write!(f, "{}us", left as f64 / 1e3),
            left => write!(f, "{left}ns"),
        }
    }
}

/// How Istio compares text. Upper and lower case differ unless the field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneMatch")]
pub enum StringMatch {
    /// `{}`: whatever the text is, as long as it is there.
    Present,
    Exact(String),
    Prefix(String),
    /// RE2 syntax, and the whole text must match.
    Regex(String),
}

#[derive(Deserialize)]
struct OneMatch {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<OneMatch> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: OneMatch) -> Result<StringMatch, &'static str> {
        match (fields.exact, fields.prefix, fields.regex) {
            (None, None, None) => Ok(StringMatch::Present),
            (Some(text), None, None) => Ok(StringMatch::Exact(text)),
            (None, Some(text), None) => Ok(StringMatch::Prefix(text)),
            (None, None, Some(text)) => Ok(StringMatch::Regex(text)),
            _ => Err("only one of exact, prefix and regex may stand here"),
        }
    }
}

/// `{value: 12.5}`, from 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Percent {
    pub value: f64,
}

/// Bytes written in base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// Only how many there are: some are private keys.
impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Line breaks are let through, as Go's decoder does.
        let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        STANDARD.decode(text).map(Bytes).map_err(|_| D::Error::custom("the value is not base64"))
    }
}

/// A text field of a protobuf message: empty is the same as left out.
pub fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A list in which null stands for an item with nothing set, as in protobuf's JSON.
pub fn nulls_as_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let items = Vec::<Option<T>>::deserialize(deserializer)?;
    Ok(items.into_iter().map(Option::unwrap_or_default).collect())
}

/// A 64-bit number, which protobuf's JSON also writes as text.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "u64")]
    enum Written {
        Number(u64),
        Text(String),
    }
    Option::<Written>::deserialize(deserializer)?
        .map(|written| match written {
            Written::Number(number) => Ok(number),
            Written::Text(text) => {
                text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a whole number")))
            }
        })
        .transpose()
}

/// gRPC's status names by number (its statuscodes document).
pub const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        let second = 1_000_000_000;
        let cases = [
            ("1s", Some(second)),
            ("1.5s", Some(second * 3 / 2)),
            (".5s", Some(second / 2)),
            ("5.s", Some(5 * second)),
            ("100ms", Some(second / 10)),
            ("1h30m", Some(5400 * second)),
            ("30m1h", Some(5400 * second)),
            ("-1s", Some(-second)),
            ("+1s", Some(second)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0s", Some(0)),
            ("1us", Some(1000)),
            ("1\u{b5}s", Some(1000)),
            ("0.0000000001s", Some(0)),
            ("2562047h", Some(2_562_047 * 3600 * second)),
            ("2562048h", None),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("1d", None),
            ("1S", None),
            ("1 s", None),
            ("1s5", None),
            ("9999999999999999999999999999999999999999999s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Duration>().ok().map(Duration::nanoseconds), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_print_as_they_are_written() {
        for text in ["1h30m", "1.5s", "100ms", "0s", "-1s", "10us", "5ns", "2m", "1m0.5s"] {
            let printed = text.parse::<Duration>().unwrap().to_string();
            let expected = if text == "1m0.5s" { "1m500ms" } else { text };
            assert_eq!(printed, expected);
        }
    }

    #[test]
    fn one_way_to_match() {
        let read = |text: &str| serde_json::from_str::<StringMatch>(text).map_err(|error| error.to_string());
        assert_eq!(read("{}"), Ok(StringMatch::Present));
        assert_eq!(read(r#"{"exact":""}"#), Ok(StringMatch::Exact(String::new())));
        assert_eq!(read(r#"{"prefix":"a"}"#), Ok(StringMatch::Prefix("a".into())));
        assert!(read(r#"{"prefix":"a","regex":"b"}"#).unwrap_err().contains("only one of"));
    }

    #[test]
    fn bytes_do_not_print_themselves() {
        let bytes: Bytes = serde_json::from_str("\"c2VjcmV0\"").unwrap();
        assert_eq!(bytes.0, b"secret");
        assert_eq!(format!("{bytes:?}"), "Bytes(6)");
        let error = serde_json::from_str::<Bytes>("\"not base64!\"").unwrap_err().to_string();
        assert!(!error.contains("not base64!"), "{error}");
    }
}
