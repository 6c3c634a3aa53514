//! Label selectors, field selectors, quantities, durations: text that parses, prints, and parses to the same.

use crate::support::{bounded, json, map};
use apimachinery::{fields, labels, quantity::Quantity};
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    #[test]
    fn label_selectors(text in prop_oneof!["[a-c./!=,() <>\\-innot0-9]{0,60}", "\\PC{0,60}", any::<String>()]) {
        match labels::Selector::parse(&text) {
            Ok(selector) => {
                let shown = selector.to_string();
                let again = labels::Selector::parse(&shown);
                prop_assert!(again.is_ok(), "{text:?} printed as {shown:?}: {again:?}");
                prop_assert_eq!(again.map(|selector| selector.to_string()), Ok(shown));
                let set = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
                let _ = selector.matches(&set);
            }
            Err(error) => prop_assert!(bounded(&error, text.len()), "{} bytes", error.len()),
        }
    }

    #[test]
    fn typed_selectors(value in json(), operator in "(In|NotIn|Exists|DoesNotExist|x)") {
        let expression = map(&[("key", value.clone()), ("operator", operator.into()), ("values", value.clone())]);
        let selector = map(&[("matchLabels", value), ("matchExpressions", vec![expression].into())]);
        let _ = labels::Selector::from_label_selector(&selector);
    }

    #[test]
    fn field_selectors(text in prop_oneof!["[a-c.!=,\\\\ ]{0,60}", "\\PC{0,60}", any::<String>()]) {
        match fields::Selector::parse(&text) {
            Ok(selector) => {
                let again = fields::Selector::parse(&selector.to_string());
                prop_assert_eq!(again.map(|again| again.to_string()), Ok(selector.to_string()));
                let _ = selector.matches(|_| "");
            }
            Err(error) => prop_assert!(bounded(&error, text.len()), "{} bytes", error.len()),
        }
    }

    #[test]
    fn any_value_can_be_selected(value in any::<String>()) {
        let selector = fields::Selector::one("metadata.name", value.clone());
        let again = fields::Selector::parse(&selector.to_string());
        prop_assert_eq!(again.as_ref().map(|again| again.exact("metadata.name")), Ok(Some(value.as_str())));
    }

    #[test]
    fn quantities(text in prop_oneof!["[+-]?[0-9]{0,40}[.]?[0-9]{0,40}[eEinumkMGTP]{0,2}[+-]?[0-9]{0,5}", "\\PC{0,30}"]) {
        if let Ok(quantity) = Quantity::parse(&text) {
            let shown = quantity.canonical();
            prop_assert!(shown.len() < 256, "{} bytes for {} bytes", shown.len(), text.len());
            let again = Quantity::parse(&shown);
            prop_assert_eq!(again.map(|again| again.canonical()), Ok(shown));
            let mut sum = quantity.clone();
            sum.add(&quantity);
            sum.sub(&quantity);
            sum.mul(-1);
            sum.neg();
            let _ = (sum.value(), sum.milli_value(), sum.as_f64(), sum.scaled_value(-9));
        }
    }
}
