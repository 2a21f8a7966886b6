//! What the run leaves to look at: the curves, and a grid of predictions.

use std::error::Error;
use std::fmt;
use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use image::{ImageFormat, Rgb, RgbImage};
use plotters::prelude::*;
use versant::data::Dataset;

/// The figures of one epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochFigures {
    /// Mean training loss.
    pub loss: f32,
    /// Share of training images classified right while training.
    pub train: f64,
    /// Share of test images classified right after the epoch.
    pub test: f64,
    /// Training images a second.
    pub speed: f64,
}

/// With `#` for people, without it for [`EpochFigures::parse`].
impl fmt::Display for EpochFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EpochFigures { loss, train, test, speed } = *self;
        if f.alternate() {
            let (train, test) = (100.0 * train, 100.0 * test);
            write!(f, "loss {loss:.3}  training {train:.1} %  test {test:.1} %  {speed:.0} images/s")
        } else {
            write!(f, "{loss} {train} {test} {speed}")
        }
    }
}

impl EpochFigures {
    /// Reads a line that a checkpoint kept; `None` if it is none.
    pub fn parse(line: &str) -> Option<EpochFigures> {
        let mut numbers = line.split(' ').map(|n| n.parse::<f64>().ok());
        let mut next = || numbers.next().flatten();
        Some(EpochFigures { loss: next()? as f32, train: next()?, test: next()?, speed: next()? })
    }
}

/// Loss and accuracy by epoch, as an SVG.
pub fn curves(path: &Path, figures: &[EpochFigures], device: &str) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(450);
    let last = figures.len().max(2) as f64;
    let at = |i: usize| (i + 1) as f64;
    let top = figures.iter().map(|f| f64::from(f.loss)).fold(0.1, f64::max) * 1.1;
    let mut loss = ChartBuilder::on(&left)
        .caption(format!("training loss, {device}"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(1.0..last, 0.0..top)?;
    loss.configure_mesh().x_desc("epoch").y_desc("cross-entropy").light_line_style(TRANSPARENT).draw()?;
    let points = figures.iter().enumerate().map(|(i, f)| (at(i), f64::from(f.loss)));
    loss.draw_series(LineSeries::new(points, BLUE.stroke_width(2)))?;
    let low = figures.iter().map(|f| f.train.min(f.test)).fold(0.9, f64::min);
    let mut accuracy = ChartBuilder::on(&right)
        .caption("accuracy", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(1.0..last, (low - 0.02).max(0.0)..1.0)?;
    accuracy.configure_mesh().x_desc("epoch").light_line_style(TRANSPARENT).draw()?;
    for (name, colour, pick) in
        [("train", BLUE, (|f| f.train) as fn(&EpochFigures) -> f64), ("test", RED, |f| f.test)]
    {
        let points = figures.iter().enumerate().map(|(i, f)| (at(i), pick(f)));
        accuracy
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    accuracy
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

const COLUMNS: u32 = 8;
const SCALE: u32 = 3;
const FRAME: u32 = 4;
const CAPTION: u32 = 30;

/// The first test images with their predicted classes, wrong ones framed red and with the right class below,
/// as an SVG that contains its picture.
pub fn predictions(
    path: &Path,
    test: &Dataset,
    predicted: &[i32],
    count: usize,
) -> Result<(), Box<dyn Error>> {
    let images = test.images();
    let count = count.min(predicted.len());
    let [_, _, height, width] = images.shape();
    let (cell_w, cell_h) = (width as u32 * SCALE + 2 * FRAME, height as u32 * SCALE + 2 * FRAME);
    let (step_w, step_h) = (cell_w + 8, cell_h + CAPTION + 8);
    let rows = (count as u32).div_ceil(COLUMNS);
    let (full_w, full_h) = (COLUMNS * step_w + 8, rows * step_h + 8);
    let mut picture = RgbImage::from_pixel(full_w, full_h, Rgb([255; 3]));
    let mut captions = String::new();
    for (i, &guess) in predicted.iter().enumerate().take(count) {
        let (x, y) = (i as u32 % COLUMNS * step_w + 8, i as u32 / COLUMNS * step_h + 8);
        let truth = test.labels()[i];
        let right = truth == guess;
        let frame = if right { Rgb([40, 160, 80]) } else { Rgb([210, 50, 50]) };
        draw_cell(&mut picture, images.get(i)?.data(), width, (x, y), (cell_w, cell_h), frame);
        let name = |class: i32| test.classes()[class as usize].replace('&', "&amp;");
        let mut line = |text: String, dy: u32, colour: &str| {
            let (cx, cy) = (x + cell_w / 2, y + cell_h + dy);
            captions += &format!("<text x=\"{cx}\" y=\"{cy}\" fill=\"{colour}\">{text}</text>\n");
        };
        line(name(guess), 13, if right { "#205030" } else { "#b02020" });
        if !right {
            line(format!("is {}", name(truth)), 26, "#505050");
        }
    }
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png)?;
    let data = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{full_w}\" height=\"{full_h}\" \
         font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n\
         <image width=\"{full_w}\" height=\"{full_h}\" href=\"data:image/png;base64,{data}\"/>\n\
         {captions}</svg>\n"
    );
    std::fs::write(path, svg)?;
    Ok(())
}

/// One enlarged image with its frame.
fn draw_cell(
    picture: &mut RgbImage,
    pixels: &[f32],
    width: usize,
    (x, y): (u32, u32),
    (w, h): (u32, u32),
    frame: Rgb<u8>,
) {
    for py in 0..h {
        for px in 0..w {
            let inside = (FRAME..w - FRAME).contains(&px) && (FRAME..h - FRAME).contains(&py);
            let colour = if inside {
                let (r, c) = ((py - FRAME) / SCALE, (px - FRAME) / SCALE);
                let value = pixels[r as usize * width + c as usize];
                // Dark on white prints better than the data's white on black.
                Rgb([255 - (value.clamp(0.0, 1.0) * 255.0) as u8; 3])
            } else {
                frame
            };
            picture.put_pixel(x + px, y + py, colour);
        }
    }
}
