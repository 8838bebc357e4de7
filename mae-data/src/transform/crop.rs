//! Which part of an image is used: the random crop of training and the centre crop of evaluation.

use super::resample::Window;
use crate::rng::KeyedRng;

/// How much larger than the input the shorter side is made before the centre crop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum CropRule {
    /// 256/224 for inputs up to 224 pixels, no margin for larger ones; the same for every action.
    #[default]
    Uniform,
    /// As upstream TAO: fine-tuning's validation and test use a margin only *below* 224 pixels, all else up to 224.
    Tao {
        /// Whether the action is validation or test of fine-tuning.
        finetune: bool,
    },
    /// This share for every size; 1 keeps the whole shorter side. timm calls it `crop_pct`.
    Share(f64),
}

impl CropRule {
    /// The share of the resized image's side that the crop keeps, for an input of `size` pixels.
    pub fn crop_pct(self, size: usize) -> f64 {
        let margin = match self {
            Self::Share(share) => return share,
            Self::Tao { finetune: true } => size < 224,
            Self::Tao { finetune: false } | Self::Uniform => size <= 224,
        };
        if margin { 224.0 / 256.0 } else { 1.0 }
    }
}

/// Area and aspect limits of the random crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomCrop {
    /// Smallest and largest area, as a share of the image's.
    pub scale: (f64, f64),
    /// Smallest and largest width / height.
    pub ratio: (f64, f64),
}

impl RandomCrop {
    /// Draws a window as torchvision's `RandomResizedCrop` and timm do: ten tries with uniform area and log-uniform
    /// aspect, then the largest centre crop inside the aspect limits.
    pub fn draw(&self, height: usize, width: usize, rng: &mut KeyedRng) -> Window {
        let area = (height * width) as f64;
        for _ in 0..10 {
            let target = area * rng.uniform(self.scale.0, self.scale.1);
            let aspect = rng.uniform(self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let w = (target * aspect).sqrt().round_ties_even() as usize;
            let h = (target / aspect).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = rng.below(height - h + 1);
                let left = rng.below(width - w + 1);
                return Window { top, left, height: h, width: w };
            }
        }
        self.fallback(height, width)
    }

    /// The largest centre crop inside the aspect limits.
    pub fn fallback(&self, height: usize, width: usize) -> Window {
        let aspect = width as f64 / height as f64;
        let (h, w) = if aspect < self.ratio.0 {
            ((width as f64 / self.ratio.0).round_ties_even() as usize, width)
        } else if aspect > self.ratio.1 {
            (height, (height as f64 * self.ratio.1).round_ties_even() as usize)
        } else {
            (height, width)
        };
        let (h, w) = (h.clamp(1, height), w.clamp(1, width));
        Window { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
    }
}

/// Height and width after the resize that precedes the centre crop: the crop's frame is `int(size / crop_pct)`, and
/// the image is scaled until it just covers it. For square inputs this is torchvision's `Resize` of the shorter side.
pub fn covering_size(image: (usize, usize), input: (usize, usize), rule: CropRule) -> (usize, usize) {
    let (height, width) = image;
    let frame = |size: usize| (size as f64 / rule.crop_pct(input.0.max(input.1))) as usize;
    let (frame_h, frame_w) = (frame(input.0), frame(input.1));
    if frame_w * height >= frame_h * width {
        (frame_w * height / width, frame_w)
    } else {
        (frame_h, frame_h * width / height)
    }
}

/// The window of `input` size in the middle of an image; offsets are rounded half to even, as Python does.
pub fn center(image: (usize, usize), input: (usize, usize)) -> Window {
    let offset = |outer: usize, inner: usize| ((outer - inner) as f64 / 2.0).round_ties_even() as usize;
    Window { top: offset(image.0, input.0), left: offset(image.1, input.1), height: input.0, width: input.1 }
}
