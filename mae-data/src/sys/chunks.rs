//! One contiguous buffer whose equal chunks are filled by several threads.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};

/// A buffer of `count` chunks; each chunk is handed out once, to one caller.
pub(crate) struct Chunks<T> {
    /// A vector taken apart, so that no reference to the whole exists while chunks are lent.
    data: *mut T,
    len: usize,
    capacity: usize,
    chunk: usize,
    taken: Vec<AtomicBool>,
}

// SAFETY: `data` is owned like the vector it came from.
unsafe impl<T: Send> Send for Chunks<T> {}
// SAFETY: the only shared access is `take`, which lends each disjoint range at most once.
unsafe impl<T: Send> Sync for Chunks<T> {}

impl<T: Clone + Default> Chunks<T> {
    /// A buffer of `count` chunks of `chunk` values: those of `spare` where it has room, else default ones.
    pub(crate) fn new(count: usize, chunk: usize, mut spare: Vec<T>) -> Self {
        if spare.capacity() < count * chunk {
            spare = vec![T::default(); count * chunk];
        } else {
            spare.resize(count * chunk, T::default());
        }
        let mut data = ManuallyDrop::new(spare);
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            capacity: data.capacity(),
            chunk,
            taken: (0..count).map(|_| AtomicBool::new(false)).collect(),
        }
    }
}

impl<T> Chunks<T> {
    /// The chunk `index`, or `None` when it was taken before or does not exist.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn take(&self, index: usize) -> Option<&mut [T]> {
        if self.taken.get(index)?.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: `index` is below the number of chunks, so the range lies inside the allocation, which lives as long
        // as `self`; the flag above makes this the only reference to the range while `self` is borrowed.
        Some(unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.chunk), self.chunk) })
    }

    /// The whole buffer.
    pub(crate) fn into_inner(self) -> Vec<T> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `self` is not dropped; its flags are read out once and freed here.
        drop(unsafe { std::ptr::read(&this.taken) });
        // SAFETY: the parts are those of the vector in `new`; `self` is gone, so nothing else refers to them.
        unsafe { Vec::from_raw_parts(this.data, this.len, this.capacity) }
    }
}

impl<T> Drop for Chunks<T> {
    fn drop(&mut self) {
        // SAFETY: the parts are those of the vector in `new`, and `into_inner` does not come here.
        drop(unsafe { Vec::from_raw_parts(self.data, self.len, self.capacity) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_taken_once_and_all_land_in_order() {
        let chunks = Chunks::<u32>::new(8, 5, Vec::new());
        std::thread::scope(|scope| {
            for t in 0..2 {
                let chunks = &chunks;
                scope.spawn(move || {
                    for i in (t..8).step_by(2) {
                        chunks.take(i).unwrap().fill(i as u32);
                    }
                });
            }
        });
        assert!(chunks.take(0).is_none(), "a second time");
        assert!(chunks.take(8).is_none(), "out of range");
        let all = chunks.into_inner();
        assert_eq!(all, (0..8).flat_map(|i| [i; 5]).collect::<Vec<u32>>());
    }
}
