//! The exponential function on lanes.

/// `2^x` for `x <= 127`; arguments below -126 give `2^-126`. Relative error below 2e-7.
///
/// `x` is split into a whole part, which goes into the exponent bits, and a rest in `[-1/2, 1/2]`, for which the
/// polynomial is that of the Cephes library's `exp2f`.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Adding this rounds to a whole number and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let p = 1.535_336_2e-4_f32;
    let p = p.mul_add(rest, 1.339_887_4e-3);
    let p = p.mul_add(rest, 9.618_437e-3);
    let p = p.mul_add(rest, 5.550_332_5e-2);
    let p = p.mul_add(rest, 2.402_264_7e-1);
    let p = p.mul_add(rest, 6.931_472e-1);
    let p = p.mul_add(rest, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let t = -x * std::f32::consts::LOG2_E;
    1.0 / (1.0 + exp2(if t < 126.0 { t } else { 126.0 }))
}

#[cfg(test)]
mod tests {
    use super::{exp2, sigmoid};

    #[test]
    fn powers_agree_with_double_precision() {
        for step in -126_000..127_000 {
            let x = step as f32 / 1000.0;
            let exact = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) / exact - 1.0).abs() < 2e-7, "2^{x}");
        }
        assert_eq!(exp2(f32::NEG_INFINITY), 2_f32.powi(-126));
    }

    #[test]
    fn sigmoid_agrees_with_double_precision() {
        for step in -80_000..80_000 {
            let x = step as f32 / 1000.0;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) / exact - 1.0).abs() < 1e-5, "sigmoid({x})");
        }
    }
}
