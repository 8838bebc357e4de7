//! Where the visible patches of a sparse encoder lie.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// The visible patches of a batch, for a convolutional encoder that computes on them alone (ConvNeXt V2, arXiv 2301.00808,
/// section 3.1: sparse convolution).
///
/// The patches of an image are stacked into one tall image of `K·s × s` places, `s` places along a patch's side. Every layer
/// whose kernel stays inside a patch (pointwise layers, norms, the patch-aligned stem and downsampling) runs on the stack as
/// on any image, and sees visible places only. A depthwise convolution looks at neighbours: the stack is spread over a
/// canvas of zeros, convolved, and taken back, which equals masking before and after a dense convolution.
#[derive(Debug)]
pub struct VisiblePatches {
    /// Indices of the visible patches in the order of the stacks, `[N, K]` int64.
    keep: Tensor,
    grid: (i64, i64),
    /// Rows of a flattened canvas `[N·H·W, C]`, by the places along a patch's side.
    places: RefCell<Vec<(i64, Tensor)>>,
}

impl VisiblePatches {
    /// Patches `keep` `[N, K]` int64, in any order, of images of `grid` patches.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn new(keep: &Tensor, grid: (i64, i64)) -> Result<Self> {
        Ok(Self::in_order(&keep.f_sort(1, false)?.0, grid))
    }

    /// The same, stacked in the order of `keep`.
    pub(crate) fn in_order(keep: &Tensor, grid: (i64, i64)) -> Self {
        VisiblePatches { keep: keep.shallow_clone(), grid, places: RefCell::default() }
    }

    /// Visible patches of an image.
    pub fn count(&self) -> i64 {
        self.keep.size()[1]
    }

    /// Indices of the visible patches, `[N, K]` int64, in the grid of patches (rows, columns).
    pub(crate) fn patches(&self) -> (&Tensor, (i64, i64)) {
        (&self.keep, self.grid)
    }

    /// Elements of the images that stacks `[N, K·s, s, C]` are the visible part of.
    pub(crate) fn canvas_numel(&self, stacks: &Tensor) -> usize {
        stacks.numel() / self.count().max(1) as usize * (self.grid.0 * self.grid.1) as usize
    }

    /// Images `[N, H, W, C]` → stacks `[N, K·s, s, C]`.
    ///
    /// # Errors
    /// When the image is not made of square patches.
    pub fn gather(&self, images: &Tensor) -> Result<Tensor> {
        let (height, channels) = (images.size()[1], images.size()[3]);
        let side = height / self.grid.0;
        let rows = images.f_reshape([-1, channels])?.f_index_select(0, &self.places(side)?)?;
        Ok(rows.f_reshape([-1, self.count() * side, side, channels])?)
    }

    /// Stacks `[N, K·s, s, C]` → images `[N, H, W, C]` that are `background` (broadcast to them) elsewhere.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn scatter(&self, stacks: &Tensor, background: &Tensor) -> Result<Tensor> {
        let (side, channels) = (stacks.size()[2], stacks.size()[3]);
        let (batch, rows, cols) = (stacks.size()[0], self.grid.0 * side, self.grid.1 * side);
        let canvas = background.f_expand([batch * rows * cols, channels], false)?;
        let canvas = canvas.f_index_copy(0, &self.places(side)?, &stacks.f_reshape([-1, channels])?)?;
        Ok(canvas.f_reshape([batch, rows, cols, channels])?)
    }

    /// The flat places of the stacks in a canvas of `side` places along a patch: `[N·K·s·s]` int64.
    fn places(&self, side: i64) -> Result<Tensor> {
        let mut known = self.places.borrow_mut();
        if let Some((_, places)) = known.iter().find(|(of, _)| *of == side) {
            return Ok(places.shallow_clone());
        }
        let keep = self.keep.f_to_device(Device::Cpu)?;
        let (batch, count) = (keep.size()[0], keep.size()[1]);
        let keep = Vec::<i64>::try_from(keep.f_reshape([-1])?)?;
        let (rows, cols) = (self.grid.0 * side, self.grid.1 * side);
        let mut places = Vec::with_capacity((batch * count * side * side) as usize);
        for (index, patch) in keep.into_iter().enumerate() {
            let image = index as i64 / count;
            let corner = (image * rows + patch / self.grid.1 * side) * cols + patch % self.grid.1 * side;
            for row in 0..side {
                places.extend((0..side).map(|col| corner + row * cols + col));
            }
        }
        let places = Tensor::f_from_slice(&places)?.f_to_device(self.keep.device())?;
        known.push((side, places.shallow_clone()));
        Ok(places)
    }

    /// A background of zeros for [`scatter`](Self::scatter).
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn zeros(&self, kind: Kind) -> Result<Tensor> {
        Ok(Tensor::f_zeros([1, 1], (kind, self.keep.device()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_go_back_to_their_places() {
        // Two images of 2×3 patches of 2×2 places; the values number the places.
        let images = Tensor::arange(2 * 4 * 6, (Kind::Float, Device::Cpu)).reshape([2, 4, 6, 1]);
        let visible = VisiblePatches::new(&Tensor::from_slice2(&[[5i64, 1], [0, 3]]), (2, 3)).unwrap();
        let stacks = visible.gather(&images).unwrap();
        assert_eq!(stacks.size(), [2, 4, 2, 1]);
        let values = Vec::<f32>::try_from(stacks.flatten(0, -1)).unwrap();
        // Patch 1 of the first image is its columns 2 and 3, rows 0 and 1; patch 5 columns 4 and 5, rows 2 and 3.
        assert_eq!(values[..8], [2., 3., 8., 9., 16., 17., 22., 23.]);
        assert_eq!(values[8..12], [24., 25., 30., 31.]);
        let back = visible.scatter(&stacks, &Tensor::from_slice2(&[[-1.0f32]])).unwrap();
        let expected = images.where_self(&back.ge(0.0), &Tensor::from_slice(&[-1.0f32]));
        assert_eq!(back, expected);
        assert_eq!(i64::try_from(back.ge(0.0).sum(Kind::Int64)).unwrap(), 16);
    }
}
