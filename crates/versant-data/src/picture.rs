//! PNG pictures, which are taken as hostile.

use std::io::Cursor;
use std::path::Path;

use crate::dataset::Image;
use crate::error::{ReadError, Result};
use crate::file;

/// Reads a PNG picture.
///
/// # Errors
/// As [`file::read`] and [`parse`].
pub fn read(path: impl AsRef<Path>) -> Result<Image> {
    let path = path.as_ref();
    parse(&file::read(path, file::DEFAULT_LIMIT)?, &path.display().to_string())
}

/// The picture in the bytes of a PNG file, values from 0 to 1: one channel for grey, three for colours, whatever the
/// depth or palette. Transparency is left out. `name` is for messages.
///
/// # Errors
/// [`ReadError::Png`] for what is no such file or is damaged; [`ReadError::TooLarge`] for a picture of more than
/// [`file::DEFAULT_LIMIT`] bytes.
pub fn parse(bytes: &[u8], name: &str) -> Result<Image> {
    let fault = |detail: String| ReadError::Png { file: name.to_owned(), detail };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| fault(e.to_string()))?;
    let too_large = || ReadError::TooLarge { file: name.to_owned(), limit: file::DEFAULT_LIMIT };
    let size =
        reader.output_buffer_size().filter(|&n| n as u64 <= file::DEFAULT_LIMIT).ok_or_else(too_large)?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|e| fault(e.to_string()))?;
    let samples = frame.color_type.samples();
    let channels = if samples < 3 { 1 } else { 3 };
    let (height, width) = (frame.height as usize, frame.width as usize);
    let mut values = Vec::with_capacity(channels * height * width);
    for channel in 0..channels {
        let plane = pixels[..height * width * samples].iter().skip(channel).step_by(samples);
        values.extend(plane.map(|&v| f32::from(v) / 255.0));
    }
    Image::new(values, [channels, height, width])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picture(colour: png::ColorType, depth: png::BitDepth, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 2, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette(vec![255, 0, 51, 0, 102, 0]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(pixels).unwrap();
        writer.finish().unwrap();
        out
    }

    #[test]
    fn every_kind_of_pixel_becomes_grey_or_colour() {
        use png::{BitDepth, ColorType};
        let check = |colour, depth, pixels: &[u8], shape: [usize; 3], expected: &[f32]| {
            let image = parse(&picture(colour, depth, pixels), "p.png").unwrap();
            assert_eq!((image.shape(), image.data()), (shape, expected), "{colour:?}");
        };
        check(ColorType::Grayscale, BitDepth::Eight, &[0, 51], [1, 1, 2], &[0.0, 0.2]);
        check(ColorType::Grayscale, BitDepth::One, &[0b0100_0000], [1, 1, 2], &[0.0, 1.0]);
        check(ColorType::Grayscale, BitDepth::Sixteen, &[255, 255, 51, 0], [1, 1, 2], &[1.0, 0.2]);
        check(ColorType::GrayscaleAlpha, BitDepth::Eight, &[51, 9, 255, 0], [1, 1, 2], &[0.2, 1.0]);
        let rgb = [1.0, 0.0, 0.0, 0.4, 0.2, 0.0];
        check(ColorType::Rgb, BitDepth::Eight, &[255, 0, 51, 0, 102, 0], [3, 1, 2], &rgb);
        check(ColorType::Rgba, BitDepth::Eight, &[255, 0, 51, 1, 0, 102, 0, 2], [3, 1, 2], &rgb);
        check(ColorType::Indexed, BitDepth::Eight, &[0, 1], [3, 1, 2], &rgb);
    }

    #[test]
    fn damaged_and_boastful_files_are_errors() {
        let bytes = picture(png::ColorType::Rgb, png::BitDepth::Eight, &[1; 6]);
        // The end mark alone may be missing: all pixels are there.
        for cut in 0..bytes.len() - 20 {
            assert!(parse(&bytes[..cut], "cut").is_err(), "{cut} of {} bytes", bytes.len());
        }
        let mut huge = bytes.clone();
        huge[16..24].fill(0x7f);
        assert!(parse(&huge, "huge").is_err());
        assert!(parse(b"GIF89a", "gif").unwrap_err().to_string().starts_with("gif: not a readable PNG"));
    }

    proptest! {
        #[test]
        fn mutated_pictures_never_panic(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = picture(png::ColorType::Rgb, png::BitDepth::Eight, &[7; 6]);
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = parse(&bytes, "mutated");
        }
    }
}
