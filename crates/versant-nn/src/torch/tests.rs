//! Files made by `tests/torch/make.py`, whole and broken.

use super::*;

const ARCHIVE: &[u8] = include_bytes!("../../tests/torch/archive.pth");
const LEGACY: &[u8] = include_bytes!("../../tests/torch/legacy.pth");

#[test]
fn both_forms_give_the_same_tensors() {
    for (form, bytes) in [("archive", ARCHIVE), ("legacy", LEGACY)] {
        let map = parse(bytes).unwrap_or_else(|why| panic!("{form}: {why}"));
        let base: Vec<f32> = (0..24).map(|i| i as f32 / 8.0).collect();
        let expect = |name: &str, shape: &[usize], data: &[f32]| {
            let tensor = &map[&format!("model.{name}")];
            assert_eq!((&tensor.shape[..], &tensor.data[..]), (shape, data), "{form}: {name}");
        };
        assert_eq!(map.len(), 10, "{form}");
        expect("conv", &[2, 3, 4], &base);
        let turned: Vec<f32> = (0..24).map(|i| base[i / 6 + (i / 3 % 2) * 12 + (i % 3) * 4]).collect();
        expect("turned", &[4, 2, 3], &turned);
        expect("part", &[2, 2], &[base[16], base[18], base[20], base[22]]);
        expect("half", &[2], &[1.5, -2.0]);
        expect("brain", &[2], &[1.5, -2.0]);
        expect("double", &[2], &[0.5, -1000.0]);
        expect("count", &[], &[7.0]);
        expect("bytes", &[2], &[0.0, 255.0]);
        expect("empty", &[0, 3], &[]);
        expect("parameter", &[2], &[1.0, 1.0]);
    }
}

#[test]
fn broken_files_are_refused_or_read_without_panic() {
    for bytes in [ARCHIVE, LEGACY] {
        for length in 0..bytes.len() {
            // Padding at the end of the older form may be missing; nothing else.
            let _ = parse(&bytes[..length]);
        }
        assert!(parse(&bytes[..bytes.len() / 2]).is_err());
        let mut changed = bytes.to_vec();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                changed[at] ^= flip;
                let _ = parse(&changed);
                changed[at] ^= flip;
            }
        }
    }
}

#[test]
fn what_it_is_not_is_said() {
    assert_eq!(parse(b"").unwrap_err(), "it is no file of torch.save");
    assert_eq!(
        parse(b"\x89PNG and so on, longer than a magic number").unwrap_err(),
        "it is no file of torch.save"
    );
    assert!(parse(b"PK\x03\x04").unwrap_err().contains("zip") || parse(b"PK\x03\x04").is_err());
    let error = read("no/such/file.pth").unwrap_err().to_string();
    assert!(error.starts_with("no/such/file.pth: "), "{error}");
}

#[test]
fn a_pickle_cannot_claim_more_than_it_has() {
    // A tensor of a million elements by a stride of zero, over a storage of one.
    let text = |s: &str| [&[b'X', s.len() as u8, 0, 0, 0], s.as_bytes()].concat();
    let mut bytes = vec![0x80, 2, b'}'];
    bytes.extend(text("w"));
    bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    bytes.extend(text("storage"));
    bytes.extend(b"ctorch\nFloatStorage\n");
    bytes.extend(text("0"));
    bytes.extend(text("cpu"));
    bytes.extend(b"K\x01tQK\x00J\x40\x42\x0f\x00\x85K\x00\x85tRs.");
    let pickle = unpickle(&bytes, 0).unwrap();
    let one = [0; 4];
    let error = collect(&pickle, &|_| Some(&one[..])).unwrap_err();
    assert_eq!(error, "w: its size, stride or offset makes no sense");
    let error = collect(&pickle, &|_| None).unwrap_err();
    assert_eq!(error, "w: its storage 0 is missing");
}

#[test]
fn a_dictionary_inside_itself_ends() {
    let pickle = unpickle(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", 0).unwrap();
    assert_eq!(collect(&pickle, &|_| None).unwrap_err(), "there is no tensor in it");
    assert!(unpickle(b"\x80\x02h\x05.", 0).unwrap_err().contains("at byte 2"));
    assert!(unpickle(b"\x80\x02(K\x010t.", 0).is_ok());
    assert!(unpickle(b"\x80\x02K\x01(0.", 0).is_err());
}

#[test]
fn the_fetched_weights_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/fetched");
    for (file, tensors, name, shape) in [
        ("mobilenet-v2/mobilenet_v2-b0353104.pth", 314, "features.0.0.weight", vec![32, 3, 3, 3]),
        ("crepe/tiny.pth", 0, "conv1.weight", vec![128, 1, 512, 1]),
    ] {
        let path = root.join(file);
        if !path.exists() {
            eprintln!("skipped: {} is not there", path.display());
            continue;
        }
        let map = super::read(&path).unwrap();
        assert_eq!(map[name].shape, shape, "{file}: {} tensors", map.len());
        assert!(tensors == 0 || map.len() == tensors, "{file}: {}", map.len());
    }
}
