//! A measurement of criterion's that is no time: how long one thing takes as a multiple of another.

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// To be used with `iter_custom`, which times both things by turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio;

impl Ratio {
    /// What `iter_custom` returns: the median, for each iteration, since criterion divides by their number. Not the
    /// mean: where something else took the core away within a turn, its ratio says nothing.
    pub(crate) fn of(mut ratios: Vec<f64>) -> f64 {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2] * ratios.len() as f64
    }
}

impl Measurement for Ratio {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {
        unreachable!("a ratio is measured with iter_custom");
    }

    fn end(&self, (): ()) -> f64 {
        unreachable!("a ratio is measured with iter_custom");
    }

    fn add(&self, first: &f64, second: &f64) -> f64 {
        first + second
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Ratio {
    fn format_value(&self, value: f64) -> String {
        format!("{value:.4}")
    }

    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        ""
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        ""
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        ""
    }
}
