use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use perihelion_pipeline::handlers::{IpNet, IpRuleError, IpRules};
use proptest::prelude::*;

/// Addresses that are often in the same subnet.
fn address() -> impl Strategy<Value = IpAddr> {
    let near = |bits: u32| (bits & 3) << 30 | (bits & 0x30) << 20 | bits & 7;
    prop_oneof![
        any::<u32>().prop_map(move |bits| Ipv4Addr::from(near(bits)).into()),
        any::<u32>().prop_map(move |bits| Ipv4Addr::from(near(bits)).to_ipv6_mapped().into()),
        any::<u32>()
            .prop_map(move |bits| Ipv6Addr::from(u128::from(near(bits)) << 96 | u128::from(bits & 3)).into()),
    ]
}

/// All addresses as numbers of IPv6, IPv4 ones as they are mapped.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rule_that_matches_decides(
        rules in prop::collection::vec((address(), 0..=32u8, any::<bool>()), 0..6),
        default in any::<bool>(),
        asked in address(),
    ) {
        let word = |allows| if allows { "allow" } else { "deny" };
        let mut text = format!("default {}\n", word(default));
        let mut built = if default { IpRules::allow_by_default() } else { IpRules::deny_by_default() };
        let mut wanted = None;
        for (address, prefix, allows) in rules {
            let (prefix, bits) = match address {
                IpAddr::V4(_) => (prefix, prefix + 96),
                IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => (prefix + 96, prefix + 96),
                IpAddr::V6(_) => (prefix + 80, prefix + 80),
            };
            text += &format!("{} {address}/{prefix} # a rule\n", word(allows));
            let subnet = IpNet::new(address, prefix).unwrap();
            built = if allows { built.allow(subnet) } else { built.deny(subnet) };
            let differs = number(address) ^ number(asked);
            let is_same_family = address.to_canonical().is_ipv4() == asked.to_canonical().is_ipv4();
            if is_same_family && differs.leading_zeros() >= bits.into() {
                wanted.get_or_insert(allows);
            }
        }
        let parsed: IpRules = text.parse().unwrap();
        prop_assert_eq!(&parsed, &built);
        prop_assert_eq!(parsed.permits(asked), wanted.unwrap_or(default), "{}{}", text, asked);
    }
}

#[test]
fn the_rest_is_denied_unless_the_text_says_otherwise() {
    let anyone = [1, 2, 3, 4].into();
    assert!(!"".parse::<IpRules>().unwrap().permits(anyone));
    assert!("default allow".parse::<IpRules>().unwrap().permits(anyone));
    assert!("deny ::1\nallow all".parse::<IpRules>().unwrap().permits(anyone));
    assert!(!"deny all\nallow 1.2.3.4".parse::<IpRules>().unwrap().permits(anyone));
    assert!("allow 1.2.3.4".parse::<IpRules>().unwrap().permits(anyone));
}

#[test]
fn a_line_that_is_no_rule_is_named() {
    for line in [
        "allow",
        "permit 10.0.0.0/8",
        "allow 10.0.0.0/33",
        "allow 10.0.0.0 /8",
        "default",
        "allow all 1.2.3.4",
    ] {
        let error = format!("allow 1.2.3.4\n  {line}").parse::<IpRules>().unwrap_err();
        assert_eq!(error, IpRuleError { line: 2, text: line.into() });
    }
}
