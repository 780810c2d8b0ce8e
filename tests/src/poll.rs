//! Waiting for something with a limit: bounded polls, never fixed sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Calls `look` until it gives something, at most for `limit`. `what` completes "waited in vain for ...".
///
/// # Errors
/// When the limit passes, or at once when `look` fails.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() >= limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f32());
        }
        std::thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_when_found_and_when_the_limit_passes() {
        let mut looks = 0;
        let found = until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
        let error = until::<()>(Duration::from_millis(30), "nothing", || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("in vain for nothing"), "{error}");
    }
}
