//! Pictures: lines, and sheets of small images.

use std::path::Path;

use image::{Rgb, RgbImage};
use plotters::prelude::*;

use super::Outcome;

/// A line of a chart.
pub struct Line<'a> {
    /// Its name in the legend; without one it has the colour of the line before.
    pub name: &'a str,
    /// Its points.
    pub points: Vec<(f64, f64)>,
    /// Dots instead of a line.
    pub dots: bool,
}

impl<'a> Line<'a> {
    /// Points joined by a line.
    pub fn new(name: &'a str, points: impl IntoIterator<Item = (f64, f64)>) -> Line<'a> {
        Line { name, points: points.into_iter().collect(), dots: false }
    }

    /// Points alone.
    pub fn dots(mut self) -> Line<'a> {
        self.dots = true;
        self
    }
}

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 94, 168),
    RGBColor(205, 80, 30),
    RGBColor(60, 140, 70),
    RGBColor(120, 80, 160),
    RGBColor(90, 90, 90),
];

/// Lines over common axes, as an SVG.
pub fn lines(path: &Path, title: &str, axes: [&str; 2], lines: &[Line<'_>]) -> Outcome {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::INFINITY, f64::min);
        let high = all().map(pick).fold(f64::NEG_INFINITY, f64::max);
        let margin = if high > low { 0.03 * (high - low) } else { 0.5 };
        low - margin..high + margin
    };
    let root = SVGBackend::new(path, (640, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(range(|p| p.0), range(|p| p.1))?;
    chart.configure_mesh().x_desc(axes[0]).y_desc(axes[1]).light_line_style(TRANSPARENT).draw()?;
    let mut named = 0;
    for line in lines {
        named += usize::from(!line.name.is_empty());
        let colour = COLOURS[named.saturating_sub(1) % COLOURS.len()];
        let points = line.points.iter().copied();
        let drawn = if line.dots {
            chart.draw_series(points.map(|at| Circle::new(at, 3, colour.mix(0.7).filled())))?
        } else {
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        };
        if line.name.is_empty() {
            continue;
        }
        drawn
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(free_corner(lines))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// The corner with the fewest points, for the legend.
fn free_corner(lines: &[Line<'_>]) -> SeriesLabelPosition {
    let all = || lines.iter().flat_map(|line| &line.points);
    let middle = |pick: fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::INFINITY, f64::min);
        (low + all().map(pick).fold(f64::NEG_INFINITY, f64::max)) / 2.0
    };
    let (x, y) = (middle(|p| p.0), middle(|p| p.1));
    let corners = [
        (SeriesLabelPosition::UpperRight, true, true),
        (SeriesLabelPosition::LowerRight, true, false),
        (SeriesLabelPosition::UpperLeft, false, true),
        (SeriesLabelPosition::LowerLeft, false, false),
    ];
    let points =
        |right: bool, above: bool| all().filter(|p| (p.0 > x) == right && (p.1 > y) == above).count();
    let best = corners.into_iter().min_by_key(|&(_, right, above)| points(right, above));
    best.map_or(SeriesLabelPosition::UpperRight, |corner| corner.0)
}

/// Images of one or three channels with values from 0 to 1, planes one after another, enlarged and side by side, as a PNG.
pub fn sheet(path: &Path, images: &[Vec<f32>], shape: [usize; 3], columns: usize, scale: usize) -> Outcome {
    let [channels, height, width] = shape;
    let (step_x, step_y) = (width * scale + 4, height * scale + 4);
    let rows = images.len().div_ceil(columns);
    let mut picture = RgbImage::from_pixel((columns * step_x) as u32, (rows * step_y) as u32, Rgb([255; 3]));
    for (at, image) in images.iter().enumerate() {
        let (left, top) = (at % columns * step_x + 2, at / columns * step_y + 2);
        for (y, x) in (0..height * scale).flat_map(|y| (0..width * scale).map(move |x| (y, x))) {
            let value = |channel: usize| {
                let plane = if channels == 3 { channel } else { 0 };
                let value = image[(plane * height + y / scale) * width + x / scale];
                (value.clamp(0.0, 1.0) * 255.0).round() as u8
            };
            picture.put_pixel((left + x) as u32, (top + y) as u32, Rgb([value(0), value(1), value(2)]));
        }
    }
    picture.save(path)?;
    Ok(())
}
