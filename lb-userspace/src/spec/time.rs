//! RFC 3339 times, as Kubernetes writes `metadata.creationTimestamp`. Only order matters, so no calendar crate.

/// Nanoseconds since 1970-01-01T00:00:00Z, or `None` where the text is no RFC 3339 time (section 5.6).
pub fn parse_rfc3339(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    let separators = [(4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")];
    if !text.is_ascii()
        || bytes.len() < 20
        || separators.iter().any(|(at, byte)| !bytes[*at].eq_ignore_ascii_case(&byte[0]))
    {
        return None;
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // 60 is a leap second.
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanoseconds, zone) = fraction(&text[19..])?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Splits off `.123`, in nanoseconds.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(after) = rest.strip_prefix('.') else {
        return Some((0, rest));
    };
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    let kept = &after[..end.min(9)];
    let scale = 10i64.pow(9 - u32::try_from(kept.len()).ok()?);
    Some((digits(kept)? * scale, &after[end..]))
}

/// `Z` or `+hh:mm`, in seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes() {
        [b'Z' | b'z'] => return Some(0),
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    Some(sign * (digits(&zone[1..3])? * 3600 + digits(&zone[4..6])? * 60))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let second = 1_000_000_000;
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400 * second)),
            ("2024-03-01T12:30:05Z", Some(1_709_296_205 * second)),
            ("2024-03-01T13:30:05.5+01:00", Some(1_709_296_205 * second + second / 2)),
            ("1969-12-31T23:59:59Z", Some(-second)),
            ("2024-13-01T00:00:00Z", None),
            ("2024-03-01 12:30:05Z", None),
            ("2024-03-01T12:30:05", None),
            ("2024-03-01T12:30:05.Z", None),
            ("yesterday", None),
            ("2024-03-0éT12:30:05Z", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
    }
}
