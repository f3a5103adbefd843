//! Plots as SVG: lines over two axes, and bars over a logarithmic one. Colours of text and rules are the page's.

use super::escaped;

/// Readable on light and on dark.
const COLOURS: [&str; 8] =
    ["#3b82d6", "#d9772b", "#2a9d6b", "#d0507f", "#8b6ad6", "#a88a10", "#1795a6", "#7d8792"];
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
/// Of each row of the legend, which is above the plot.
const LEGEND_ROW: f64 = 18.0;
const BOTTOM: f64 = 34.0;

/// A line. Points go from left to right.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// From where to where, and what is written there.
#[derive(Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

/// Three to four digits with their unit.
pub(super) fn micros(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1} µs"),
        us if us < 10_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn span(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max))
}

impl Axis {
    /// 1/(1-quantile): each ten times is one nine more.
    pub(super) fn rarity(series: &[Series]) -> Self {
        let (_, most) = span(series.iter().flat_map(|of| &of.points).map(|point| point.0));
        let decades = most.max(10.0).log10().ceil() as i32;
        let label = |decade: i32| match decade {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            more => format!("99.{} %", "9".repeat(more as usize - 2)),
        };
        let ticks = (0..=decades).map(|decade| (10f64.powi(decade), label(decade))).collect();
        Self { from: 1.0, to: 10f64.powi(decades), logarithmic: true, ticks }
    }

    /// Whole decades of time.
    pub(super) fn micros(series: &[Series]) -> Self {
        let (least, most) = span(series.iter().flat_map(|of| &of.points).map(|point| point.1));
        Self::decades(least, most)
    }

    fn decades(least: f64, most: f64) -> Self {
        let first = if least.is_finite() { least.max(1.0).log10().floor() as i32 } else { 0 };
        let last = (most.max(1.0).log10().ceil() as i32).max(first + 1);
        let label = |decade: i32| match decade {
            0..3 => format!("{} µs", 10i64.pow(decade as u32)),
            3..6 => format!("{} ms", 10i64.pow(decade as u32 - 3)),
            _ => format!("{} s", 10i64.pow(decade as u32 - 6)),
        };
        let ticks = (first..=last).map(|decade| (10f64.powi(decade), label(decade))).collect();
        Self { from: 10f64.powi(first), to: 10f64.powi(last), logarithmic: true, ticks }
    }

    pub(super) fn seconds(series: &[Series]) -> Self {
        let (_, most) = span(series.iter().flat_map(|of| &of.points).map(|point| point.0));
        Self::even(most, most, " s")
    }

    pub(super) fn from_zero(series: &[Series]) -> Self {
        let (_, most) = span(series.iter().flat_map(|of| &of.points).map(|point| point.1));
        Self::even(most, most * 1.05, "")
    }

    /// From 0, with ticks at 1, 2 or 5 times a power of ten: five to ten of them.
    fn even(most: f64, to: f64, unit: &str) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let power = 10f64.powf((most / 5.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| most / step <= 8.0);
        let step = step.unwrap_or(power);
        let digits = if step < 1.0 { (-step.log10()).ceil() as usize } else { 0 };
        let count = (most / step + 1e-9).floor() as u32;
        let ticks = (0..=count).map(|tick| f64::from(tick) * step);
        let ticks = ticks.map(|at| (at, format!("{at:.digits$}{unit}"))).collect();
        Self { from: 0.0, to: to.max(most), logarithmic: false, ticks }
    }

    /// Where a value stands, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        part.clamp(0.0, 1.0)
    }
}

/// Lines over two axes.
#[derive(Debug)]
pub(super) struct Plot<'a> {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: &'a [Series],
}

impl Plot<'_> {
    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    /// The names, as many in a row as there is room for, and how high that is.
    fn legend(&self) -> (String, f64) {
        let (mut svg, mut x, mut y) = (String::new(), LEFT, LEGEND_ROW);
        for of in self.series {
            // As wide as its letters, about.
            let width = 34.0 + 6.6 * of.name.chars().count() as f64;
            if x + width > WIDTH {
                (x, y) = (LEFT, y + LEGEND_ROW);
            }
            svg += &format!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                y - 4.0,
                COLOURS[of.colour % COLOURS.len()],
                x + 17.0,
                y + 6.0,
                escaped(of.name),
            );
            x += width;
        }
        (svg, y + 22.0)
    }

    pub(super) fn svg(&self) -> String {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        let (legend, top) = self.legend();
        svg += &legend;
        let bottom = HEIGHT - BOTTOM;
        let y_of = |value: f64| bottom - self.y.place(value) * (bottom - top);
        for (value, label) in &self.y.ticks {
            let (y, end) = (y_of(*value), WIDTH - RIGHT);
            svg += &format!("<path class=\"rule\" d=\"M{LEFT} {y:.1}H{end}\"/>");
            svg += &text(LEFT - 8.0, y + 4.0, "end", label);
        }
        for (value, label) in &self.x.ticks {
            let x = self.x_of(*value);
            svg += &format!("<path class=\"rule\" d=\"M{x:.1} {top}V{bottom}\"/>");
            // The last one would stand half outside.
            let (at, anchor) = if x > WIDTH - LEFT { (WIDTH - 4.0, "end") } else { (x, "middle") };
            svg += &text(at, bottom + 18.0, anchor, label);
        }
        for of in self.series {
            let colour = COLOURS[of.colour % COLOURS.len()];
            let points: Vec<String> =
                of.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", self.x_of(x), y_of(y))).collect();
            let name = escaped(of.name);
            svg += &format!(
                "<polyline stroke=\"{colour}\" points=\"{}\"><title>{name}</title></polyline>\n",
                points.join(" ")
            );
        }
        svg + "</svg>\n"
    }
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!(
        "<text class=\"dim\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
        escaped(text)
    )
}

/// How often a time was taken, in bins of equal width on a logarithmic axis.
pub(super) fn bars(name: &str, colour: usize, counts: &[(f64, u64)]) -> String {
    const BINS_COUNT: usize = 60;
    const WIDTH: f64 = 430.0;
    const HEIGHT: f64 = 170.0;
    const SIDE: f64 = 14.0;
    let (least, most) = span(counts.iter().map(|&(us, _)| us));
    let (least, most) = (least.max(0.1), most.max(least.max(0.1) * 1.01));
    let mut bins = [0u64; BINS_COUNT];
    for &(us, count) in counts {
        let place = (us.max(least) / least).ln() / (most / least).ln();
        bins[((place * BINS_COUNT as f64) as usize).min(BINS_COUNT - 1)] += count;
    }
    let highest = bins.iter().copied().max().unwrap_or(0).max(1) as f64;
    let (width, floor) = ((WIDTH - 2.0 * SIDE) / BINS_COUNT as f64, HEIGHT - 28.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    let total: u64 = bins.iter().sum();
    svg += &format!("<text x=\"{SIDE}\" y=\"20\">{}: {total}</text>\n", escaped(name));
    let colour = COLOURS[colour % COLOURS.len()];
    for (index, &count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let edge = |index: usize| least * (most / least).powf(index as f64 / BINS_COUNT as f64);
        // A single one is still seen.
        let height = (count as f64 / highest * (floor - 32.0)).max(1.0);
        svg += &format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\">\
             <title>{} to {}: {count}</title></rect>\n",
            SIDE + index as f64 * width,
            floor - height,
            width - 0.8,
            micros(edge(index)),
            micros(edge(index + 1)),
        );
    }
    svg += &format!("<path class=\"rule\" d=\"M{SIDE} {floor}H{}\"/>", WIDTH - SIDE);
    let middle = (least * most).sqrt();
    for (x, anchor, us) in
        [(SIDE, "start", least), (WIDTH / 2.0, "middle", middle), (WIDTH - SIDE, "end", most)]
    {
        svg += &text(x, HEIGHT - 10.0, anchor, &micros(us));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        for (most, last) in [(0.7, "0.7"), (1.0, "1.0"), (4.2, "4"), (99.0, "80"), (12_345.0, "12000")] {
            let axis = Axis::even(most, most, "");
            assert!((4..=9).contains(&axis.ticks.len()), "{most}: {axis:?}");
            assert_eq!(axis.ticks.last().expect("ticks").1, last);
        }
    }

    #[test]
    fn a_decade_is_as_long_as_another() {
        let axis = Axis::decades(15.0, 80_000.0);
        assert_eq!((axis.from, axis.to), (10.0, 100_000.0));
        let places: Vec<f64> = axis.ticks.iter().map(|(value, _)| axis.place(*value)).collect();
        assert!(places.windows(2).all(|pair| (pair[1] - pair[0] - 0.25).abs() < 1e-9), "{places:?}");
        assert_eq!(axis.ticks[2].1, "1 ms");
        assert_eq!((axis.place(1.0), axis.place(1e9)), (0.0, 1.0));
    }

    #[test]
    fn every_count_is_in_a_bar() {
        let counts: Vec<(f64, u64)> = (1..=1000).map(|us| (f64::from(us), 3)).collect();
        let svg = bars("x -> y", 2, &counts);
        assert!(svg.contains(">x -&gt; y: 3000<"), "{svg}");
        let summed: u64 = svg
            .split("<title>")
            .skip(1)
            .map(|piece| piece.split_once(": ").expect("a count").1.split('<').next().expect("digits"))
            .map(|count| count.parse::<u64>().expect("a number"))
            .sum();
        assert_eq!(summed, 3000);
    }
}
