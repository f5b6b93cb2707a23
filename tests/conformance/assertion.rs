//! An assertion: a number, a sentence, the plugins that it is about, and the function
//! that applies it to one of them.

use crate::plugin::Plugin;

/// What an assertion says of one plugin; an error says what was expected and what came.
pub(crate) type Verdict = Result<(), String>;

/// One thing that a plugin must do, seen from outside.
pub(crate) struct Assertion {
    /// Its number, by which it is asked for and cited.
    pub(crate) number: u8,
    /// What holds of a plugin that passes.
    pub(crate) sentence: &'static str,
    /// The plugins that it is about.
    pub(crate) about: About,
    /// Applies it.
    pub(crate) apply: fn(&Plugin) -> Verdict,
}

/// The plugins that an assertion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Every plugin.
    Any,
    /// Those that give a container an interface.
    Main,
    /// Those that manage addresses and remember who has which.
    Store,
    /// Those that speak version 1.1.0, which brought GC and STATUS.
    Speaks110,
    /// The same, as far as they give a container an interface.
    MainSpeaks110,
    /// The same, as far as they remember who has which address.
    StoreSpeaks110,
    /// Those whose interface belongs to a parent interface of the node.
    Parent,
    /// Those that move an interface of the node.
    Device,
    /// Those that do one or the other.
    Uplink,
    /// Those that remember reservations in files that another implementation reads.
    Peer,
}

impl About {
    /// Why an assertion about these has nothing to say of `plugin`.
    pub(crate) fn reason_against(self, plugin: &Plugin) -> Option<&'static str> {
        let recipe = &plugin.recipe;
        let no_link = (!recipe.is_main()).then_some("gives no container an interface");
        let no_store = match (recipe.is_main(), &recipe.store) {
            (true, _) => Some("manages no addresses"),
            (false, None) => Some("keeps no reservations"),
            (false, Some(_)) => None,
        };
        let too_old = (!plugin.speaks("1.1.0")).then_some("does not speak 1.1.0");
        let no_parent = recipe.parent.is_none().then_some("has no parent interface");
        let no_device = recipe.device.is_none().then_some("moves no interface");
        match self {
            Self::Any => None,
            Self::Main => no_link,
            Self::Store => no_store,
            Self::Speaks110 => too_old,
            Self::MainSpeaks110 => no_link.or(too_old),
            Self::StoreSpeaks110 => no_store.or(too_old),
            Self::Parent => no_link.or(no_parent),
            Self::Device => no_link.or(no_device),
            Self::Uplink => no_link
                .or(no_parent.and(no_device))
                .map(|_| "has no uplink"),
            Self::Peer => no_store.or(plugin.peer.is_none().then_some("no other one is given")),
        }
    }
}

/// Ends an assertion with what was expected and what came, unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// All assertions, in the order of their numbers.
pub(crate) fn all() -> Vec<&'static Assertion> {
    let sections = [
        crate::protocol::ASSERTIONS,
        crate::surroundings::ASSERTIONS,
        crate::add::ASSERTIONS,
        crate::failed_add::ASSERTIONS,
        crate::add_options::ASSERTIONS,
        crate::del::ASSERTIONS,
        crate::check_status_gc::ASSERTIONS,
        crate::garbage::ASSERTIONS,
        crate::concurrency::ASSERTIONS,
        crate::runtimes::ASSERTIONS,
    ];
    let mut all: Vec<&Assertion> = sections.into_iter().flatten().collect();
    all.sort_by_key(|assertion| assertion.number);
    all
}
