//! What is shown while it runs, and at the end.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::campaign::Sum;

/// A bar on standard error, where that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(title: &str, seed: u64, cuts_count: usize) -> Self {
        let bar = ProgressBar::new(cuts_count as u64);
        let template = "{prefix:28} {bar:30} {pos}/{len} cuts, {elapsed} {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("a template that was tried"));
        bar.set_prefix(title.to_owned());
        if bar.is_hidden() {
            eprintln!("{title}: {cuts_count} cuts, seed {seed}");
        }
        Self { bar }
    }

    pub(crate) fn show(&self, sum: &Sum) {
        self.bar.set_position(sum.cuts as u64);
        self.bar.set_message(format!("{} lost, {} corrupt", sum.lost, sum.corrupt));
        if let Some(complaint) = sum.complaints.last().filter(|complaint| complaint.cut == sum.cuts) {
            self.bar.suspend(|| eprintln!("{}, seed {}: {complaint}", sum.filesystem, sum.seed));
        }
    }
}

/// A mutant on one filesystem.
#[derive(Debug, Serialize)]
pub(crate) struct MutantRow {
    pub mutant: &'static str,
    pub sum: Sum,
}

pub(crate) fn print_sums(sums: &[Sum], as_json: bool) {
    if as_json {
        print_json(sums);
        return;
    }
    println!(
        "{:<10} {:>6} {:>13} {:>10} {:>6} {:>8} {:>11} {:>9}  seed",
        "filesystem", "cuts", "acknowledged", "recovered", "lost", "corrupt", "duplicates", "failures"
    );
    for sum in sums {
        let Sum {
            filesystem, cuts, acknowledged, recovered, lost, corrupt, duplicates, failures, seed, ..
        } = sum;
        println!(
            "{filesystem:<10} {cuts:>6} {acknowledged:>13} {recovered:>10} {lost:>6} {corrupt:>8} {duplicates:>11} \
             {failures:>9}  {seed}"
        );
    }
    for sum in sums {
        sum.complaints.iter().for_each(|complaint| println!("{}: {complaint}", sum.filesystem));
    }
}

pub(crate) fn print_mutants(rows: &[MutantRow], as_json: bool) {
    if as_json {
        print_json(rows);
        return;
    }
    println!("{:<18} {:<10} {:<9} {:>6}  how", "mutant", "filesystem", "fate", "cuts");
    for MutantRow { mutant, sum } in rows {
        let fate = if sum.is_good() { "SURVIVED" } else { "killed" };
        let how = sum.complaints.first().map_or_else(String::new, ToString::to_string);
        println!("{mutant:<18} {:<10} {fate:<9} {:>6}  {how}", sum.filesystem, sum.cuts);
    }
}

fn print_json(value: &(impl Serialize + ?Sized)) {
    println!("{}", serde_json::to_string_pretty(value).expect("plain data"));
}
