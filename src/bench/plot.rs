//! Pictures of figures, as SVG. Pure.

use std::fmt::Write as _;

use super::figures::{Arrival, as_f64, per_stretch, seconds_until_each};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 3] = ["#1f6f8b", "#b5651d", "#a02c2c"];
const STRETCH_US: i64 = 10_000;

/// A named line.
pub type Series<'a> = (&'a str, Vec<(f64, f64)>);

/// Where values lie on the picture.
struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let place = |value: f64| {
            if self.logarithmic {
                value.max(1.0).log10()
            } else {
                value
            }
        };
        let (from, to) = (place(self.from), place(self.to));
        let share = if to > from {
            (place(value) - from) / (to - from)
        } else {
            0.5
        };
        self.start + share * (self.end - self.start)
    }

    /// Round values to be written at the axis, if it is not logarithmic.
    fn marks(&self) -> Vec<f64> {
        let step = round_up((self.to - self.from) / 6.0);
        (0..=10)
            .map(|number| self.from + step * f64::from(number))
            .filter(|value| *value <= self.to)
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least as large.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|round| *round >= value * 0.999_999)
        .unwrap_or(10.0 * power)
}

/// Lines over a logarithmic axis.
pub fn rates(title: &str, series: &[Series<'_>]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let xs = |pick: fn(f64, f64) -> f64, first| points().map(|(x, _)| x).fold(first, pick);
    let highest = points().map(|(_, y)| y).fold(1.0, f64::max);
    let x = Scale {
        from: xs(f64::min, f64::MAX).clamp(1.0, 1e12),
        to: xs(f64::max, 1.0),
        start: LEFT,
        end: WIDTH - RIGHT,
        logarithmic: true,
    };
    let y = upwards(highest);
    // What was measured, and nothing in between.
    let mut sizes: Vec<f64> = points().map(|(x, _)| x).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let mut svg = frame(title, (&x, &sizes), &y, "jobs waiting");
    for (number, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        line(
            &mut svg,
            colour,
            points.iter().map(|&(at, rate)| (x.at(at), y.at(rate))),
        );
        for &(at, rate) in points {
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{colour}"/>"#,
                x.at(at),
                y.at(rate)
            );
        }
        legend(&mut svg, number, colour, name);
    }
    svg + "</svg>\n"
}

/// Recipients in each 10 ms, the sum of the second that ends at each arrival, and the limit of that sum.
pub fn arrivals(title: &str, arrivals: &[Arrival], limit: u32) -> String {
    let counts = per_stretch(arrivals, STRETCH_US);
    let sums = seconds_until_each(arrivals);
    let first = sums.first().map_or(0, |(at, _)| *at);
    let fullest = sums.iter().map(|(_, sum)| *sum).max().unwrap_or(0);
    let since = |at_us: i64| seconds(at_us - first);
    let x = Scale {
        from: 0.0,
        to: sums.last().map_or(1.0, |(at, _)| since(*at)).max(0.01),
        start: LEFT,
        end: WIDTH - RIGHT,
        logarithmic: false,
    };
    let y = upwards(f64::from(limit).max(as_f64(fullest)));
    let mut svg = frame(title, (&x, &x.marks()), &y, "seconds");
    for (place, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let at = x.at(as_f64(place as u64) * seconds(STRETCH_US));
        let top = y.at(as_f64(*count));
        let _ = writeln!(
            svg,
            r#"<rect x="{at:.2}" y="{top:.1}" width="0.6" height="{:.1}" fill="{}"/>"#,
            y.at(0.0) - top,
            COLOURS[0]
        );
    }
    let points = sums
        .iter()
        .map(|&(at, sum)| (x.at(since(at)), y.at(as_f64(sum))));
    line(&mut svg, COLOURS[1], points);
    let limit = y.at(f64::from(limit));
    line(
        &mut svg,
        COLOURS[2],
        [(x.start, limit), (x.end, limit)].into_iter(),
    );
    legend(&mut svg, 0, COLOURS[0], "recipients in 10 ms");
    legend(&mut svg, 1, COLOURS[1], "recipients in the second before");
    legend(&mut svg, 2, COLOURS[2], "the limit");
    svg + "</svg>\n"
}

fn upwards(highest: f64) -> Scale {
    Scale {
        from: 0.0,
        to: highest * 1.1,
        start: HEIGHT - BOTTOM,
        end: TOP,
        logarithmic: false,
    }
}

/// Title, axes and what is written at them.
fn frame(title: &str, (x, marks): (&Scale, &[f64]), y: &Scale, unit: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" \
         font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for mark in y.marks() {
        let at = y.at(mark);
        line(
            &mut svg,
            "#dddddd",
            [(x.start, at), (x.end, at)].into_iter(),
        );
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{mark}</text>"#,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for mark in marks {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{mark}</text>"#,
            x.at(*mark),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
        WIDTH - RIGHT,
        HEIGHT - 10.0,
        escaped(unit)
    );
    svg
}

fn line(svg: &mut String, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#,
        points.join(" ")
    );
}

fn legend(svg: &mut String, number: usize, colour: &str, name: &str) {
    let at = LEFT + 220.0 * f64::from(u8::try_from(number).unwrap_or(u8::MAX));
    let _ = writeln!(
        svg,
        "<rect x=\"{at}\" y=\"30\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n<text x=\"{}\" y=\"41\">{}</text>",
        at + 18.0,
        escaped(name)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn seconds(us: i64) -> f64 {
    as_f64(u64::try_from(us).unwrap_or(0)) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(svg: &str, start: &str) -> Vec<Vec<(f64, f64)>> {
        let lines = svg
            .lines()
            .filter(|line| line.starts_with(start) && !line.contains("#dddddd"));
        lines
            .map(|line| {
                let points = line.split('"').nth(1).expect("the points come first");
                let read = |text: &str| text.parse::<f64>().expect("a number");
                let point = |pair: &str| {
                    let (x, y) = pair.split_once(',').expect("two numbers");
                    (read(x), read(y))
                };
                points.split_whitespace().map(point).collect()
            })
            .collect()
    }

    #[test]
    fn larger_values_lie_higher_and_further_to_the_right() {
        let svg = rates(
            "a & b",
            &[
                ("one", vec![(1_000.0, 500.0), (100_000.0, 1_000.0)]),
                ("two", vec![]),
            ],
        );
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b"));
        let lines = places(&svg, "<polyline");
        assert_eq!(lines.len(), 2);
        let [left, right] = lines[0][..] else {
            panic!("two points: {:?}", lines[0]);
        };
        assert!(right.0 > left.0 && right.1 < left.1, "{left:?} {right:?}");
        assert!(lines[1].is_empty());
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn a_bar_for_each_stretch_with_arrivals_and_lines_for_sum_and_limit() {
        let arrivals_: Vec<Arrival> = [0, 5_000, 20_000, 1_500_000]
            .map(|at_us| Arrival {
                at_us: 1_700_000_000_000_000 + at_us,
                recipients: 1,
            })
            .into();
        let svg = arrivals("limit", &arrivals_, 3);
        assert_eq!(svg.matches("width=\"0.6\"").count(), 3);
        let lines = places(&svg, "<polyline");
        let [sums, limit] = &lines[..] else {
            panic!("two lines: {lines:?}");
        };
        assert_eq!(sums.len(), 4);
        // Three in the fullest second touch the limit of three, and the last one stands alone.
        assert!((sums[2].1 - limit[0].1).abs() < 0.11);
        assert!(sums[3].1 > limit[0].1);
    }

    #[test]
    fn nothing_at_all_is_still_a_picture() {
        for svg in [rates("nothing", &[]), arrivals("nothing", &[], 100)] {
            assert!(
                svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
    }

    #[test]
    fn steps_of_an_axis_are_round() {
        for (value, expected) in [
            (0.0, 1.0),
            (0.7, 1.0),
            (1.1, 2.0),
            (3.0, 5.0),
            (60.0, 100.0),
            (100.0, 100.0),
        ] {
            assert!(
                (round_up(value) - expected).abs() < 1e-9,
                "{value}: {}",
                round_up(value)
            );
        }
    }
}
