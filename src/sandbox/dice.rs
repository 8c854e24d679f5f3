//! Chance: the same draws for the same seed on every machine.

/// SplitMix64: small, and good enough for a stand-in.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall in the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number from 0 up to, but not including, 1.
    pub fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(STEP);
        fraction(mix(self.0))
    }
}

/// The lot of whatever these numbers tell apart, from 0 up to, but not including, 1. It follows from the numbers alone, so nobody has
/// to remember it, and no other draw moves it.
pub fn lot(seed: u64, which: [u64; 3]) -> f64 {
    let mixed = which
        .into_iter()
        .fold(mix(seed.wrapping_add(STEP)), |so_far, number| {
            mix((so_far ^ number).wrapping_add(STEP))
        });
    fraction(mixed)
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn fraction(bits: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are exactly what an f64 holds"
    )]
    let fraction = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_are_spread_evenly_and_each_number_counts() {
        let low = (0..10_000)
            .filter(|n| lot(7, [312_891_245, *n, 0]) < 0.25)
            .count();
        assert!((2_300..2_700).contains(&low), "{low} of 10,000 below 0.25");
        let one = lot(7, [1, 2, 3]);
        assert_eq!(lot(7, [1, 2, 3]).to_bits(), one.to_bits());
        for other in [
            lot(8, [1, 2, 3]),
            lot(7, [2, 1, 3]),
            lot(7, [1, 2, 4]),
            lot(7, [0, 2, 3]),
        ] {
            assert_ne!(other.to_bits(), one.to_bits());
        }
    }
}
