//! Names of tensors under what training programs put around a model.
//!
//! `DistributedDataParallel` names everything `module.`, `torch.compile` `_orig_mod.`, Lightning and trainers after the
//! attribute that holds the model (`model.`, `sam.`), and all of them nest. A part that all names share is removed where the
//! rest is a known layout, and said; nothing is removed from names that differ in it.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Layout, UnknownKeys};
use super::state_dict::{StateDict, TensorInfo};

/// Parts that PyTorch's wrappers add, at any depth: `image_encoder._orig_mod.blocks.0`. No layout has them.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Prefixes within each other, at most.
const MAX_DEPTH: usize = 6;

impl StateDict {
    /// The layout of a segmenter's names; names under a common prefix lose it.
    ///
    /// # Errors
    ///
    /// What the file appears to be instead.
    pub fn recognise_layout(&mut self) -> Result<Layout, String> {
        self.recognise_keys(Layout::recognise)
    }

    /// The layout of the tensors' names, as `recognise` finds it with and without the prefixes that all names share.
    ///
    /// # Errors
    ///
    /// What the file appears to be instead.
    pub(crate) fn recognise_keys<L>(
        &mut self,
        recognise: impl Fn(&BTreeMap<String, TensorInfo>) -> Result<L, UnknownKeys>,
    ) -> Result<L, String> {
        let unwrapped = without_wrappers(&self.tensors)?;
        let mut names =
            unwrapped.clone().unwrap_or_else(|| self.tensors.keys().map(|key| (key.clone(), key.clone())).collect());
        let mut prefix = String::new();
        let mut first_problem = None;
        for _ in 0..MAX_DEPTH {
            match recognise(&renamed(&self.tensors, &names)) {
                Ok(layout) => {
                    if unwrapped.is_some() || !prefix.is_empty() {
                        self.removed = Some(removed(&prefix, unwrapped.as_ref()));
                        self.rename(names);
                    }
                    return Ok(layout);
                }
                Err(UnknownKeys::OfAnother(what)) => return Err(what),
                Err(UnknownKeys::Unknown(problem)) => first_problem = first_problem.or(Some(problem)),
            }
            let Some(part) = common_part(&names) else { break };
            prefix.push_str(&part);
            for name in names.values_mut() {
                name.drain(..part.len());
            }
        }
        let problem = first_problem.unwrap_or_default();
        Err(match layout_of_a_part(&names, &self.tensors, &recognise) {
            Some(part) => format!(
                "{problem}; those under `{part}` are known, but the others are not: save the state dict of that module alone"
            ),
            None => problem,
        })
    }
}

/// Names without the parts of wrappers; `None` when no name has one.
fn without_wrappers(tensors: &BTreeMap<String, TensorInfo>) -> Result<Option<BTreeMap<String, String>>, String> {
    let short = |key: &String| key.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".");
    let names: BTreeMap<String, String> = tensors.keys().map(|key| (key.clone(), short(key))).collect();
    let mut seen = BTreeSet::new();
    if let Some((key, name)) = names.iter().find(|(_, name)| !seen.insert(name.as_str())) {
        return Err(format!("holds two tensors for `{name}`, one of them as `{key}`: save one state dict per file"));
    }
    Ok(names.iter().any(|(key, name)| key != name).then_some(names))
}

/// What was removed, for people.
fn removed(prefix: &str, unwrapped: Option<&BTreeMap<String, String>>) -> String {
    let is_used = |part: &&&str| {
        let has = |key: &String| key.split('.').any(|at| at == **part);
        unwrapped.is_some_and(|names| names.keys().any(has))
    };
    let parts = WRAPPERS.iter().filter(is_used).map(|part| format!("`{part}.`"));
    let parts: Vec<String> = parts.chain((!prefix.is_empty()).then(|| format!("`{prefix}`"))).collect();
    parts.join(" and ")
}

/// The first part of all names, with its dot; `None` when they differ in it.
fn common_part(names: &BTreeMap<String, String>) -> Option<String> {
    let (part, _) = names.values().next()?.split_once('.')?;
    let part = format!("{part}.");
    names.values().all(|name| name.starts_with(&part)).then_some(part)
}

/// The first part of those names that are, by themselves, of a known layout.
fn layout_of_a_part<L>(
    names: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, TensorInfo>,
    recognise: impl Fn(&BTreeMap<String, TensorInfo>) -> Result<L, UnknownKeys>,
) -> Option<String> {
    let parts: BTreeSet<&str> = names.values().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let is_known = |part: &&&str| {
        let under = names.iter().filter_map(|(key, name)| {
            let rest = name.strip_prefix(**part)?.strip_prefix('.')?;
            Some((key.clone(), rest.to_owned()))
        });
        recognise(&renamed(tensors, &under.collect())).is_ok()
    };
    parts.iter().find(is_known).map(|part| format!("{part}."))
}

/// The tensors of these names, under the new ones.
fn renamed(tensors: &BTreeMap<String, TensorInfo>, names: &BTreeMap<String, String>) -> BTreeMap<String, TensorInfo> {
    names.iter().filter_map(|(key, name)| Some((name.clone(), tensors.get(key)?.clone()))).collect()
}
