//! Who may connect.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Allows and denies addresses by subnet. The first rule that matches decides, so that an exception stands before its
/// rule; an address that none matches has the default. Meant for the moment at which a connection is accepted, before
/// anything is built for it.
///
/// An IPv4 address that is mapped into IPv6, as a socket for both gives it, is an IPv4 address; and no subnet of IPv6
/// has one in it, not even `::/0`.
///
/// As text, a rule is a line; `all` is every address, what follows `#` is a comment, and a line `default allow` or
/// `default deny` says what becomes of the rest. Without it they are denied.
///
/// ```
/// # use perihelion_pipeline::handlers::IpRules;
/// let rules: IpRules = "
///     deny  10.9.0.0/16   # the guests
///     allow 10.0.0.0/8
///     allow fd00::/8
/// ".parse()?;
/// assert!(rules.permits([10, 1, 2, 3].into()));
/// assert!(!rules.permits([10, 9, 2, 3].into()));
/// assert!(!rules.permits([192, 168, 0, 1].into()));
/// # Ok::<(), perihelion_pipeline::handlers::IpRuleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRules {
    rules: Vec<(IpNet, bool)>,
    default: bool,
}

/// A line that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRuleError {
    /// Its number, from one.
    pub line: usize,
    /// What it says.
    pub text: String,
}

impl IpRules {
    /// Permits whom no rule denies.
    pub fn allow_by_default() -> Self {
        IpRules { rules: Vec::new(), default: true }
    }

    /// Permits only whom a rule allows.
    pub fn deny_by_default() -> Self {
        IpRules { rules: Vec::new(), default: false }
    }

    /// Allows a subnet, or an address, that no rule before denies.
    pub fn allow(self, subnet: impl Into<IpNet>) -> Self {
        self.rule(subnet.into(), true)
    }

    /// Denies a subnet, or an address, that no rule before allows.
    pub fn deny(self, subnet: impl Into<IpNet>) -> Self {
        self.rule(subnet.into(), false)
    }

    /// Whether this address may connect.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let rule = self.rules.iter().find(|(subnet, _)| subnet.contains(&address));
        rule.map_or(self.default, |(_, allows)| *allows)
    }

    fn rule(mut self, subnet: IpNet, allows: bool) -> Self {
        self.rules.push((canonical(subnet), allows));
        self
    }
}

/// A subnet of mapped IPv4 addresses is a subnet of IPv4 addresses, or it would match nothing.
fn canonical(subnet: IpNet) -> IpNet {
    match (subnet.addr().to_canonical(), subnet.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if subnet.addr().is_ipv6() => {
            IpNet::new(address.into(), prefix).unwrap_or(subnet)
        }
        _ => subnet,
    }
}

impl FromStr for IpRules {
    type Err = IpRuleError;

    fn from_str(text: &str) -> Result<Self, IpRuleError> {
        let mut rules = IpRules::deny_by_default();
        for (at, line) in text.lines().enumerate() {
            let rule = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = rule.split_whitespace().collect();
            let taken = match words[..] {
                [] => Some(()),
                ["default", verdict] => allows(verdict).map(|allows| rules.default = allows),
                [verdict, "all"] => allows(verdict).map(|allows| {
                    rules.rules.push((IpNet::V4(Default::default()), allows));
                    rules.rules.push((IpNet::V6(Default::default()), allows));
                }),
                [verdict, subnet] => allows(verdict)
                    .zip(parse_subnet(subnet))
                    .map(|(allows, subnet)| rules.rules.push((canonical(subnet), allows))),
                _ => None,
            };
            taken.ok_or_else(|| IpRuleError { line: at + 1, text: line.trim().to_owned() })?;
        }
        Ok(rules)
    }
}

fn allows(verdict: &str) -> Option<bool> {
    match verdict {
        "allow" => Some(true),
        "deny" => Some(false),
        _ => None,
    }
}

fn parse_subnet(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl fmt::Display for IpRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: no rule for addresses: {:?}", self.line, self.text)
    }
}

impl std::error::Error for IpRuleError {}
