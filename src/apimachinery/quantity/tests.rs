//! Quantities as a real server prints them, and arithmetic that must be exact.

use super::*;
use proptest::prelude::*;

fn q(s: &str) -> Quantity {
    Quantity::parse(s).unwrap()
}

#[test]
fn prints_like_upstream() {
    for (text, want) in [
        ("0", "0"),
        ("0Gi", "0"),
        ("0.5", "500m"),
        ("0.1", "100m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1e3", "1e3"),
        ("129e6", "129e6"),
        ("2.5", "2500m"),
        ("1000000Ki", "1000000Ki"),
        ("1000Mi", "1000Mi"),
        ("0.25", "250m"),
        ("1500m", "1500m"),
        ("100Mi", "100Mi"),
        ("-1", "-1"),
        ("1000", "1k"),
        ("1000k", "1M"),
        ("12E", "12E"),
        ("0.0001", "100u"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("100Ki", "100Ki"),
        ("1024", "1024"),
        ("0.5Ki", "512"),
        ("1e-3", "1e-3"),
        ("10e-1", "1"),
        (".5Mi", "512Ki"),
        ("9999999999Ei", "9223372036854775807"),
        ("1000e3", "1e6"),
        ("1E", "1E"),
        ("1.25", "1250m"),
        ("123456789012345678901234", "123456789012345678901234"),
        ("-0.5Gi", "-512Mi"),
        ("0.3Ki", "307200m"),
    ] {
        assert_eq!(q(text).to_string(), want, "{text}");
    }
}

#[test]
fn rounds_to_milli() {
    for (text, want) in [("0.0001", "1m"), ("1.5Gi", "1536Mi"), ("1", "1"), ("1500u", "2m"), ("-1u", "-1m")] {
        let mut quantity = q(text);
        quantity.round_up(-3);
        assert_eq!(quantity.to_string(), want, "{text}");
    }
}

#[test]
fn errors() {
    for text in ["", "1x", "1 Gi", "1mm1x", "Gi1x"] {
        assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Format, "{text}");
    }
    for text in ["1mm", "1Kii", "1e", "1ee3", "1i"] {
        assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Suffix, "{text}");
    }
}

#[test]
fn values() {
    assert_eq!(q("1.5").value(), 2);
    assert_eq!(q("1.5").milli_value(), 1500);
    assert_eq!(q("1Gi").value(), 1 << 30);
    assert_eq!(q("1Gi").as_i64(), Some(1 << 30));
    assert_eq!(q("1m").as_i64(), None);
    assert_eq!(q("1e40").value(), i64::MAX);
    assert!(q("1e40") > q("9Ei"));
    assert!(q("-1e60") < q("1n"));
    let mut a = q("0");
    a.add(&q("1Gi"));
    a.add(&q("512Mi"));
    assert_eq!(a.to_string(), "1536Mi");
    a.sub(&q("1536Mi"));
    assert_eq!(a.to_string(), "0");
    let mut a = q("100m");
    a.mul(10);
    assert_eq!(a.to_string(), "1");
}

proptest! {
    #[test]
    fn never_panics(text in "[+-]?[0-9.]{0,45}[eEinumkKMGTPx]{0,3}[-+]?[0-9]{0,12}") {
        if let Ok(quantity) = Quantity::parse(&text) {
            let _ = (quantity.to_string(), quantity.value(), quantity.milli_value(), quantity.as_f64());
            let mut sum = quantity.clone();
            sum.add(&q("1n"));
            sum.sub(&q("1E"));
            sum.mul(i64::MAX);
            sum.round_up(3);
            prop_assert_eq!(quantity.cmp(&quantity), Ordering::Equal);
        }
    }

    #[test]
    fn canonical_keeps_the_value(n in any::<i32>(), frac in 0u32..1000,
                                 suffix in prop::sample::select(vec!["", "n", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-2"])) {
        let a = q(&format!("{n}.{frac}{suffix}"));
        let b = q(&a.canonical());
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(b.canonical(), a.canonical());
    }

    #[test]
    fn adds_exactly(a in any::<i32>(), b in any::<i32>(), s in 0usize..10, t in 0usize..10) {
        let (x, y) = (q(&format!("{a}{}", DECIMAL[s].0)), q(&format!("{b}{}", DECIMAL[t].0)));
        let mut sum = x.clone();
        sum.add(&y);
        prop_assert_eq!(x.cmp(&y), (sum.clone(), { let mut d = y.clone(); d.add(&y); d }).0.cmp(&{ let mut d = y.clone(); d.add(&y); d }));
        sum.sub(&y);
        prop_assert_eq!(sum, x);
    }
}
