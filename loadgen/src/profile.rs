//! How many messages a second are due, over a run's time.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// In each piece the rate changes evenly; behind the last it stays.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pieces: Arc<[Piece]>,
    last_rate: f64,
    text: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    begins_secs: f64,
    secs: f64,
    /// Arrivals before it.
    before: f64,
    from: f64,
    to: f64,
}

impl Piece {
    fn arrivals(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.secs
    }

    /// Arrivals in its first `secs`.
    fn arrivals_in(&self, secs: f64) -> f64 {
        self.from * secs + (self.to - self.from) / (2.0 * self.secs) * secs * secs
    }

    /// The reverse: the root of `arrivals_in(secs) = arrivals`, in the form that also holds where the rate is even.
    fn secs_of(&self, arrivals: f64) -> f64 {
        let slope = (self.to - self.from) / self.secs;
        let root = (self.from * self.from + 2.0 * slope * arrivals).max(0.0).sqrt();
        if arrivals <= 0.0 { 0.0 } else { (2.0 * arrivals / (self.from + root)).min(self.secs) }
    }
}

impl Profile {
    /// The same rate for ever, in messages a second.
    pub fn steady(rate: f64) -> Self {
        Self { pieces: Arc::new([]), last_rate: rate, text: format!("{rate} messages/s").into() }
    }

    pub fn ramp(from: f64, to: f64, secs: f64) -> Self {
        let text = format!("{from} to {to} messages/s in {secs} s");
        Self::of(&[(from, to)], secs, &text)
    }

    /// Each of the rates for so many seconds.
    pub fn steps(rates: &[f64], secs: f64) -> Self {
        let listed = rates.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let pieces: Vec<_> = rates.iter().map(|&rate| (rate, rate)).collect();
        Self::of(&pieces, secs, &format!("{listed} messages/s for {secs} s each"))
    }

    fn of(rates: &[(f64, f64)], secs: f64, text: &str) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for &(from, to) in rates {
            let before = pieces.last().map_or(0.0, |last| last.before + last.arrivals());
            pieces.push(Piece { begins_secs: pieces.len() as f64 * secs, secs, before, from, to });
        }
        let last_rate = rates.last().map_or(0.0, |&(_, to)| to);
        Self { pieces: pieces.into(), last_rate, text: text.into() }
    }

    /// `FROM:TO:SECONDS`, as 100:5000:30.
    pub fn parse_ramp(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [from, to, secs] = parts[..] else {
            return Err(format!("`{text}` is not FROM:TO:SECONDS"));
        };
        // At nothing a second, nothing would come of the next message.
        Ok(Self::ramp(rate_or_zero(from)?, rate(to)?, seconds(secs)?))
    }

    /// `R1,R2,..:SECONDS`, as 1000,2000,4000:10.
    pub fn parse_steps(text: &str) -> Result<Self, String> {
        let (rates, secs) =
            text.split_once(':').ok_or_else(|| format!("`{text}` is not R1,R2,..:SECONDS"))?;
        let rates = rates.split(',').map(rate).collect::<Result<Vec<_>, _>>()?;
        if rates.len() > STEPS_COUNT_MAX {
            return Err(format!("at most {STEPS_COUNT_MAX} steps"));
        }
        Ok(Self::steps(&rates, seconds(secs)?))
    }

    /// How long it takes; none: it has no end.
    pub fn secs(&self) -> Option<f64> {
        self.pieces.last().map(|last| last.begins_secs + last.secs)
    }

    /// The rate that does not change, if it is one.
    pub fn steady_rate(&self) -> Option<f64> {
        self.pieces.is_empty().then_some(self.last_rate)
    }

    /// When so many arrivals have been due, in seconds since the beginning: the next one comes then.
    pub fn secs_of(&self, arrivals: f64) -> f64 {
        match self.pieces.iter().find(|piece| arrivals < piece.before + piece.arrivals()) {
            Some(piece) => piece.begins_secs + piece.secs_of(arrivals - piece.before),
            None => {
                let (before, secs) = self.whole();
                secs + (arrivals - before) / self.last_rate
            }
        }
    }

    /// Arrivals that are due before `secs`.
    pub fn arrivals_by(&self, secs: f64) -> f64 {
        match self.pieces.iter().find(|piece| secs < piece.begins_secs + piece.secs) {
            Some(piece) => piece.before + piece.arrivals_in((secs - piece.begins_secs).max(0.0)),
            None => {
                let (before, whole_secs) = self.whole();
                before + (secs - whole_secs) * self.last_rate
            }
        }
    }

    /// Arrivals and seconds of all pieces.
    fn whole(&self) -> (f64, f64) {
        self.pieces
            .last()
            .map_or((0.0, 0.0), |last| (last.before + last.arrivals(), last.begins_secs + last.secs))
    }
}

impl Display for Profile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Steps of one profile: each message that is due looks for its step.
const STEPS_COUNT_MAX: usize = 100;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e8;
const SECONDS_MAX: f64 = 1e6;

/// Messages a second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().map_err(|_| format!("`{text}` is not a number"))?;
    if (RATE_MIN..=RATE_MAX).contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("a rate must lie between {RATE_MIN} and {RATE_MAX}"))
    }
}

fn rate_or_zero(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) { Ok(0.0) } else { rate(text) }
}

fn seconds(text: &str) -> Result<f64, String> {
    let secs = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    secs.filter(|secs| (RATE_MIN..=SECONDS_MAX).contains(secs))
        .ok_or_else(|| format!("`{text}`: seconds between {RATE_MIN} and {SECONDS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds up a thousand slices of each second: the reference.
    fn slowly(rate_at: impl Fn(f64) -> f64, secs: f64) -> f64 {
        let slices = (secs * 1000.0).round() as usize;
        (0..slices).map(|slice| rate_at((slice as f64 + 0.5) / 1000.0) / 1000.0).sum()
    }

    #[test]
    fn arrivals_add_up_to_the_rate_over_time() {
        let ramp = Profile::parse_ramp("100:500:10").expect("a ramp");
        let ramp_at = |secs: f64| if secs < 10.0 { 100.0 + 40.0 * secs } else { 500.0 };
        let down = Profile::parse_ramp("500:100:10s").expect("a ramp");
        let down_at = |secs: f64| if secs < 10.0 { 500.0 - 40.0 * secs } else { 100.0 };
        let from_zero = Profile::parse_ramp("0:400:10").expect("a ramp");
        let from_zero_at = |secs: f64| if secs < 10.0 { 40.0 * secs } else { 400.0 };
        let steps = Profile::parse_steps("100,300,200:2").expect("steps");
        let steps_at = |secs: f64| [100.0, 300.0, 200.0][((secs / 2.0) as usize).min(2)];
        type At<'a> = &'a dyn Fn(f64) -> f64;
        let cases: [(&Profile, At<'_>); 5] = [
            (&ramp, &ramp_at),
            (&down, &down_at),
            (&from_zero, &from_zero_at),
            (&steps, &steps_at),
            (&Profile::steady(70.0), &|_| 70.0),
        ];
        for (profile, rate_at) in cases {
            for tenths in 0..150 {
                let secs = f64::from(tenths) / 10.0;
                let (fast, slow) = (profile.arrivals_by(secs), slowly(rate_at, secs));
                assert!((fast - slow).abs() < 1e-6 * slow.max(1.0), "{profile} {secs}: {fast} {slow}");
                let back = profile.secs_of(fast);
                assert!((back - secs).abs() < 1e-6, "{profile} {secs}: {back}");
            }
        }
        assert_eq!((ramp.secs(), steps.secs(), Profile::steady(1.0).secs()), (Some(10.0), Some(6.0), None));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1:2", "1:0:5", "-1:2:5", "1:2:0", "1:2:3:4", "x:2:3", "NaN:2:3"] {
            assert!(Profile::parse_ramp(text).is_err(), "{text}");
        }
        for text in ["", "1,2", "1,,2:3", "0,1:2", ":5", "1:x"] {
            assert!(Profile::parse_steps(text).is_err(), "{text}");
        }
    }
}
