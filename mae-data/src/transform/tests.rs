//! Resize and crop against torchvision on Pillow, bit for bit.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::rng::Purpose;
use crate::testing::{goldens, json, npy, number, png};

fn filter(name: &serde_json::Value) -> Filter {
    match name.as_str().unwrap() {
        "bicubic" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        other => panic!("{other}"),
    }
}

#[test]
fn resize_and_centre_crop_equal_torchvisions() {
    let folder = goldens("preprocess");
    let goldens = json(&folder.join("preprocess.json"));
    let mut scratch = Scratch::default();
    let (mut checked, mut tensors) = (0, 0);
    for (name, file) in goldens["files"].as_object().unwrap() {
        let image = png(&folder.join(file["decoded"].as_str().unwrap())).unwrap();
        for output in file["outputs"].as_array().unwrap() {
            let size = number(&output["input_size"]);
            let augmentation = Augmentation { input_size: (size, size), ..Augmentation::default() };
            let variant = output["variant"].as_str().unwrap();
            let rule = CropRule::Tao { finetune: variant == "finetune" };
            let pipeline = Pipeline::evaluate(&augmentation).unwrap().with_crop_rule(rule);
            let mut tensor = vec![0.0; 3 * size * size];
            let mut rng = KeyedRng::new(0, 0, 0, Purpose::Augment);
            pipeline.apply(&image, &mut rng, &mut scratch, &mut tensor);
            if let Some(expected) = png(&folder.join(output["cropped_uint8"].as_str().unwrap())) {
                assert!(scratch.image == expected, "{name} {variant} {size}");
                checked += 1;
            }
            for (value, expected) in tensor.iter().zip(output["first"].as_array().unwrap()) {
                assert_eq!(*value, expected.as_f64().unwrap() as f32, "{name} {variant} {size}");
            }
            let sum: f64 = tensor.iter().map(|v| f64::from(*v)).sum();
            let expected = output["sum"].as_f64().unwrap();
            assert!((sum - expected).abs() <= 1e-8 * expected.abs() + 1e-3, "{name} {sum} {expected}");
            if let Some(file) = output["tensor"].as_str()
                && let Some(expected) = npy(&folder.join(file))
            {
                assert!(tensor == expected, "{name} {variant} {size}: the tensor differs");
                tensors += 1;
            }
        }
    }
    assert!(checked >= 6, "only {checked} images, {tensors} tensors");
}

#[test]
fn resized_crop_equals_torchvisions() {
    let folder = goldens("preprocess");
    let goldens = json(&folder.join("preprocess.json"));
    let (mut scratch, mut portable) = (ResizeScratch::default(), ResizeScratch::portable());
    let mut out = RgbImage::default();
    let mut checked = 0;
    for case in goldens["resized_crop"].as_array().unwrap() {
        let Some(expected) = png(&folder.join(case["file"].as_str().unwrap())) else { continue };
        let input = case["input"].as_str().unwrap().replace('.', "_");
        let image = png(&folder.join(format!("decoded/{input}.png"))).unwrap();
        let corner: Vec<usize> =
            case["box_top_left_height_width"].as_array().unwrap().iter().map(number).collect();
        let window = Window { top: corner[0], left: corner[1], height: corner[2], width: corner[3] };
        let size = number(&case["size"]);
        let resize = Resize::to(window, (size, size), filter(&case["interpolation"]));
        for scratch in [&mut scratch, &mut portable] {
            resize.apply(Part::whole(&image), scratch, &mut out);
            assert!(out == expected, "{case}");
        }
        checked += 1;
    }
    assert!(checked >= 7, "only {checked} cases");
}

#[test]
fn the_order_of_passes_is_pillows() {
    let folder = goldens("preprocess").join("vertical_first");
    let (mut scratch, mut portable) = (ResizeScratch::default(), ResizeScratch::portable());
    let mut out = RgbImage::default();
    let mut checked = 0;
    for case in json(&folder.join("vertical_first.json"))["cases"].as_array().unwrap() {
        let file = |key: &str| png(&folder.join(case[key].as_str().unwrap()));
        let (Some(image), Some(expected)) = (file("input"), file("output")) else { continue };
        let size = (expected.height, expected.width);
        let window = Window::whole((image.height, image.width));
        for scratch in [&mut scratch, &mut portable] {
            Resize::to(window, size, filter(&case["filter"])).apply(Part::whole(&image), scratch, &mut out);
            assert!(out == expected, "{case}");
        }
        checked += 1;
    }
    assert!(checked >= 2, "only {checked} cases");
}

#[test]
fn the_fallback_crop_is_torchvisions() {
    let goldens = json(&goldens("preprocess").join("preprocess.json"));
    for case in goldens["random_resized_crop_fallback"].as_array().unwrap() {
        let size: Vec<usize> = case["size_wh"].as_array().unwrap().iter().map(number).collect();
        let pair = |key: &str| (case[key][0].as_f64().unwrap(), case[key][1].as_f64().unwrap());
        let crop = RandomCrop { scale: pair("scale"), ratio: pair("ratio") };
        let corner: Vec<usize> =
            case["fallback_box_top_left_height_width"].as_array().unwrap().iter().map(number).collect();
        let expected = Window { top: corner[0], left: corner[1], height: corner[2], width: corner[3] };
        assert_eq!(crop.fallback(size[1], size[0]), expected, "{case}");
        // The areas asked for are larger than the image, so ten draws fail and the fallback is what is drawn.
        let mut rng = KeyedRng::new(0, 0, 0, Purpose::Augment);
        assert_eq!(crop.draw(size[1], size[0], &mut rng), expected, "{case}");
    }
}

/// The pixels of a window, as an image.
fn cut(image: &RgbImage, window: Window) -> RgbImage {
    let rows = image.data.chunks_exact(image.width * 3).skip(window.top).take(window.height);
    let data = rows.flat_map(|row| row[window.left * 3..][..window.width * 3].to_vec()).collect();
    RgbImage { width: window.width, height: window.height, data }
}

/// A window with sides of at least 1 inside a size.
fn window_in(size: (usize, usize), corner: (f64, f64), share: (f64, f64)) -> Window {
    let side = |size: usize, share: f64| 1 + (share * (size - 1) as f64) as usize;
    let (height, width) = (side(size.0, share.0), side(size.1, share.1));
    let top = (corner.0 * (size.0 - height + 1) as f64) as usize;
    let left = (corner.1 * (size.1 - width + 1) as f64) as usize;
    Window { top, left, height, width }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Vector code equals portable code; a part of a result equals that part of all of it, made from no more pixels
    /// than it says it needs.
    #[test]
    fn every_way_to_resize_is_the_same(
        size in (1usize..90, 1usize..90),
        to in (1usize..70, 1usize..70),
        window in ((0.0..1.0f64, 0.0..1.0f64), (0.0..1.0f64, 0.0..1.0f64)),
        part in ((0.0..1.0f64, 0.0..1.0f64), (0.0..1.0f64, 0.0..1.0f64)),
        bicubic: bool,
        seed: u64,
    ) {
        let mut rng = KeyedRng::new(seed, 0, 0, Purpose::Augment);
        let data = (0..size.0 * size.1 * 3).map(|_| rng.below(256) as u8).collect();
        let image = RgbImage { width: size.1, height: size.0, data };
        let filter = if bicubic { Filter::Bicubic } else { Filter::Bilinear };
        let all = Resize::to(window_in(size, window.0, window.1), to, filter);
        let (mut expected, mut result) = (RgbImage::default(), RgbImage::default());
        all.apply(Part::whole(&image), &mut ResizeScratch::portable(), &mut expected);
        let mut scratch = ResizeScratch::default();
        all.apply(Part::whole(&image), &mut scratch, &mut result);
        prop_assert!(result == expected, "vector code differs");

        let some = Resize { part: window_in(to, part.0, part.1), ..all };
        let needs = some.needs();
        let needed = cut(&image, needs);
        let source = Part { pixels: &needed, top: needs.top, left: needs.left };
        some.apply(source, &mut scratch, &mut result);
        prop_assert!(result == cut(&expected, some.part), "a part differs");
    }
}

/// Area and aspect of drawn crops keep their limits and spread over them; about half of the draws with `max_scale` 2
/// are larger than the image and drawn again.
#[test]
fn random_crops_are_distributed_as_torchvisions() {
    let crop = RandomCrop { scale: (0.1, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) };
    let (height, width) = (400, 400);
    let mut rng = KeyedRng::new(1, 0, 0, Purpose::Augment);
    let mut areas = [0u32; 4];
    for _ in 0..20_000 {
        let window = crop.draw(height, width, &mut rng);
        assert!(window.top + window.height <= height && window.left + window.width <= width);
        let aspect = window.width as f64 / window.height as f64;
        assert!((0.74..1.35).contains(&aspect), "{window:?}");
        let area = (window.width * window.height) as f64 / (height * width) as f64;
        assert!(area > 0.099, "{window:?}");
        // Below 3/4 of the image every aspect fits, so nothing is drawn again and the area is uniform there.
        if area < 0.7 {
            areas[((area - 0.1) / 0.15).clamp(0.0, 3.0) as usize] += 1;
        }
    }
    let mean = f64::from(areas.iter().sum::<u32>()) / 4.0;
    let chi: f64 = areas.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
    assert!(chi < 20.0, "areas {areas:?}, chi-squared {chi} with 3 degrees of freedom");
}

#[test]
fn one_rule_decides_the_crop_unless_tao_is_asked_for() {
    let frame = |size: usize, rule| covering_size((500, 400), (size, size), rule);
    let sizes: HashMap<usize, (usize, usize)> = [(224, (320, 256)), (64, (91, 73)), (256, (320, 256))].into();
    for (size, expected) in sizes {
        assert_eq!(frame(size, CropRule::Uniform), expected);
        assert_eq!(frame(size, CropRule::Tao { finetune: false }), expected);
    }
    assert_eq!(frame(224, CropRule::Tao { finetune: true }), (280, 224));
    assert_eq!(frame(64, CropRule::Share(1.0)), (80, 64), "the whole width is kept");
    assert_eq!(frame(64, CropRule::Share(0.5)), (160, 128));
}

#[test]
fn inputs_that_are_not_square_are_covered() {
    for (image, input) in [((50, 400), (64, 96)), ((400, 50), (64, 96)), ((64, 96), (64, 96))] {
        let covering = covering_size(image, input, CropRule::Uniform);
        assert!(covering.0 >= input.0 && covering.1 >= input.1, "{image:?} {input:?} {covering:?}");
        let window = center(covering, input);
        assert!(window.top + input.0 <= covering.0 && window.left + input.1 <= covering.1);
    }
}

#[test]
fn a_training_result_depends_on_the_key_alone() {
    let image = png(&goldens("preprocess").join("decoded/rgb_png.png")).unwrap();
    let augmentation = Augmentation { input_size: (32, 48), re_prob: 0.5, ..Augmentation::default() };
    let pipeline = Pipeline::finetune(&augmentation).unwrap();
    let mut scratch = Scratch::default();
    let mut result = |index| {
        let mut out = vec![0.0; 3 * 32 * 48];
        pipeline.apply(&image, &mut KeyedRng::new(3, 1, index, Purpose::Augment), &mut scratch, &mut out);
        out
    };
    let first = result(0);
    assert_ne!(first, result(1));
    assert_eq!(first, result(0), "scratch memory of another image is not seen");
}
