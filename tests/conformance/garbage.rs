//! Assertions 52 to 55: GC removes the reservations that are not listed, and only those.

use std::fs;

use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::Plugin;
use crate::scene::{Scene, unlike, with};

const VALID: &str = "cni.dev/valid-attachments";
const LEGACY: &str = "cni.dev/attachments";

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 52,
        sentence: "GC removes exactly what is not listed, whatever the order and repetitions, and leaves other networks alone",
        about: About::StoreSpeaks110,
        apply: gc_removes_what_is_not_listed,
    },
    Assertion {
        number: 53,
        sentence: "GC without the key removes nothing; with null or [] everything of the network",
        about: About::StoreSpeaks110,
        apply: gc_needs_the_key,
    },
    Assertion {
        number: 54,
        sentence: "GC goes on behind a broken entry, and reports it",
        about: About::StoreSpeaks110,
        apply: gc_goes_on_and_reports,
    },
    Assertion {
        number: 55,
        sentence: "GC understands the older key cni.dev/attachments",
        about: About::StoreSpeaks110,
        apply: gc_understands_the_older_key,
    },
];

/// A node with reservations of three attachments, and of another network.
struct Crowd<'a> {
    scene: Scene<'a>,
    /// The files of c1/net1, c1/net2, c2/net1 and of the other network.
    files: Vec<Vec<String>>,
}

impl<'a> Crowd<'a> {
    fn new(plugin: &'a Plugin) -> Result<Self, String> {
        let scene = Scene::new(plugin);
        let mut files = Vec::new();
        for (id, ifname, network) in [
            ("c1", "net1", "net"),
            ("c1", "net2", "net"),
            ("c2", "net1", "net"),
            ("c2", "net1", "other"),
        ] {
            let before = scene.files();
            let conf = with(&scene.conf(), &json!({"name": network}));
            let call = scene.call("ADD", &conf);
            scene.succeeds(&call.env("CNI_CONTAINERID", id).env("CNI_IFNAME", ifname))?;
            let mut added = scene.files();
            added.retain(|file| !before.contains(file));
            ensure!(
                !added.is_empty(),
                "expected a reservation of {id}, came none"
            );
            files.push(added);
        }
        Ok(Self { scene, files })
    }

    /// GC with these keys, which must succeed.
    fn gc(&self, keys: &Value) -> Verdict {
        let mut conf = self.scene.conf();
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        self.scene
            .succeeds(&self.scene.bare_call("GC").conf(&conf))
            .map(drop)
    }

    /// Whether these of the attachments are left, and no others.
    fn has(&self, attachments: &[usize], when: &str) -> Verdict {
        let mut expected: Vec<String> = Vec::new();
        for attachment in attachments {
            expected.extend(self.files[*attachment].iter().cloned());
        }
        expected.sort();
        let came = self.scene.files();
        ensure!(
            came == expected,
            "after GC with {when}, expected {expected:?}, came {came:?}"
        );
        Ok(())
    }
}

fn attachment(id: &str, ifname: &str) -> Value {
    json!({"containerID": id, "ifname": ifname})
}

fn gc_removes_what_is_not_listed(plugin: &Plugin) -> Verdict {
    let c2 = attachment("c2", "net1");
    let unknown = attachment("unknown", "net1");
    let reversed = json!({"ifname": "net1", "containerID": "c1"});
    for (valid, left) in [
        (json!([c2, unknown, c2]), &[2, 3][..]),
        (json!([c2, reversed]), &[0, 2, 3]),
        (json!([attachment("c1", "net2")]), &[1, 3]),
        (json!([unknown]), &[3]),
    ] {
        let crowd = Crowd::new(plugin)?;
        crowd.gc(&json!({VALID: valid}))?;
        crowd.has(left, &valid.to_string())?;
    }
    Ok(())
}

fn gc_needs_the_key(plugin: &Plugin) -> Verdict {
    let crowd = Crowd::new(plugin)?;
    // Refusing is as good as doing nothing.
    let without = crowd.scene.bare_call("GC").conf(&crowd.scene.conf());
    crowd.scene.node.run(&without);
    crowd.has(&[0, 1, 2, 3], "no key")?;
    for valid in [Value::Null, json!([])] {
        let crowd = Crowd::new(plugin)?;
        crowd.gc(&json!({VALID: valid}))?;
        crowd.has(&[3], &valid.to_string())?;
    }
    Ok(())
}

fn gc_goes_on_and_reports(plugin: &Plugin) -> Verdict {
    let crowd = Crowd::new(plugin)?;
    let Some(store) = &plugin.recipe.store else {
        return Err("the recipe has no store".to_owned());
    };
    let broken = crowd.scene.on_disk(&store.directory.join(&store.broken));
    fs::create_dir_all(&broken).map_err(|cause| cause.to_string())?;
    let conf = with(
        &crowd.scene.conf(),
        &json!({VALID: [attachment("c2", "net1")]}),
    );
    let output = crowd
        .scene
        .node
        .run(&crowd.scene.bare_call("GC").conf(&conf));
    ensure!(
        (output.stdout.clone() + &output.stderr).contains(&store.broken),
        "{}",
        unlike(
            &format!("a report of {}", store.broken),
            "there is none",
            &output
        )
    );
    crowd.has(&[2, 3], "a broken entry")
}

fn gc_understands_the_older_key(plugin: &Plugin) -> Verdict {
    let crowd = Crowd::new(plugin)?;
    crowd.gc(&json!({LEGACY: [attachment("c2", "net1")]}))?;
    crowd.has(&[2, 3], "the older key")
}
