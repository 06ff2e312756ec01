//! The rotary settings of `config.json`, in both layouts: `rope_theta` with `rope_scaling`, and `rope_parameters`.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::model::{ModelError, Rope};

/// The base that a file means which says nothing: the first Llamas and Phis had no field for it.
const THETA: f64 = 10_000.0;

/// The name of the object with the rotary settings, and the object if there is one.
type Settings<'a> = (&'static str, Option<&'a Map<String, Value>>);

fn settings<'a>(file: &Fields<'a>) -> Result<Settings<'a>, ModelError> {
    let field = if file.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    match file.object.get(field) {
        None | Some(Value::Null) => Ok((field, None)),
        Some(Value::Object(object)) => Ok((field, Some(object))),
        Some(value) => Err(file.error(field, format!("found {value}, expected an object"))),
    }
}

/// The share of each head that is rotated, in either layout.
pub(super) fn partial_rotary_factor(file: &Fields<'_>) -> Result<Option<f64>, ModelError> {
    let (field, object) = settings(file)?;
    let inner = match object {
        Some(object) => {
            let prefix = format!("{field}.");
            Fields { path: file.path, object, prefix: &prefix }.optional_number("partial_rotary_factor")?
        }
        None => None,
    };
    Ok(match inner {
        Some(number) => Some(number),
        None => file.optional_number("partial_rotary_factor")?,
    })
}

/// Reads how positions turn into angles; `rotary_dim` numbers of each head are rotated, `positions` is
/// `max_position_embeddings`.
pub(super) fn read(file: &Fields<'_>, rotary_dim: usize, positions: usize) -> Result<Rope, ModelError> {
    let (field, object) = settings(file)?;
    let empty = Map::new();
    let prefix = format!("{field}.");
    let rope = Fields { path: file.path, object: object.unwrap_or(&empty), prefix: &prefix };
    let theta = match (rope.optional_number("rope_theta")?, file.optional_number("rope_theta")?) {
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) if field == "rope_scaling" => THETA,
        (None, None) => return Err(rope.error("rope_theta", "missing, expected a positive number")),
    };
    // Absent everywhere, the original context is the model's: so do `transformers` 4.48 and 5.
    let original = || match (
        rope.optional_count("original_max_position_embeddings")?,
        file.optional_count("original_max_position_embeddings")?,
    ) {
        (Some(inner), Some(outer)) if inner != outer => {
            let problem = format!("found {inner}, but the field of the same name outside of `{field}` has {outer}");
            Err(rope.error("original_max_position_embeddings", problem))
        }
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Ok(positions),
    };
    let key = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let name = match rope.get(key) {
        None if rope.object.keys().all(|name| name == "rope_theta" || name == "partial_rotary_factor") => "default",
        None => return Err(rope.error("rope_type", "missing, expected the name of a scaling method")),
        Some(Value::String(name)) => name.as_str(),
        Some(value) => return Err(rope.error(key, format!("found {value}, expected the name of a scaling method"))),
    };
    match name {
        "default" => Ok(Rope::Default { theta }),
        "linear" => Ok(Rope::Linear { theta, factor: rope.number("factor")? }),
        "dynamic" => Ok(Rope::DynamicNtk { theta, factor: rope.number("factor")?, original_context: positions }),
        "yarn" => {
            let factor = rope.number("factor")?;
            let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
            let attention_factor = match rope.optional_number("attention_factor")? {
                Some(number) => Some(number),
                None => match (rope.optional_number("mscale")?, rope.optional_number("mscale_all_dim")?) {
                    (Some(above), Some(below)) => Some(mscale(above) / mscale(below)),
                    _ => None,
                },
            };
            Ok(Rope::Yarn {
                theta,
                factor,
                original_context: original()?,
                beta_fast: rope.optional_number("beta_fast")?.unwrap_or(32.0),
                beta_slow: rope.optional_number("beta_slow")?.unwrap_or(1.0),
                attention_factor,
                truncate: rope.flag("truncate")?.unwrap_or(true),
            })
        }
        "llama3" => Ok(Rope::Llama3 {
            theta,
            factor: rope.number("factor")?,
            original_context: original()?,
            low_freq_factor: rope.number("low_freq_factor")?,
            high_freq_factor: rope.number("high_freq_factor")?,
        }),
        "longrope" => {
            let original_context = original()?;
            let attention_factor = match (rope.optional_number("attention_factor")?, rope.optional_number("factor")?) {
                (Some(number), _) => Some(number),
                (None, Some(factor)) => Some(Rope::long_rope_attention_factor(factor, original_context)),
                (None, None) => None,
            };
            Ok(Rope::LongRope {
                theta,
                original_context,
                context: positions,
                short_factors: rope.numbers("short_factor", rotary_dim / 2)?,
                long_factors: rope.numbers("long_factor", rotary_dim / 2)?,
                attention_factor,
            })
        }
        other => {
            let expected = "one of default, linear, dynamic, yarn, llama3, longrope";
            Err(rope.error(key, format!("found \"{other}\", expected {expected}")))
        }
    }
}

/// `rope_scaling`, or null if nothing is scaled.
pub(super) fn write(rope: &Rope) -> Value {
    match rope {
        Rope::Default { .. } => Value::Null,
        Rope::Linear { factor, .. } => json!({ "rope_type": "linear", "factor": factor }),
        Rope::DynamicNtk { factor, .. } => json!({ "rope_type": "dynamic", "factor": factor }),
        Rope::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate, .. } => {
            let mut object = json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_context,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
            });
            if let Some(number) = attention_factor {
                object["attention_factor"] = json!(number);
            }
            if !truncate {
                object["truncate"] = json!(false);
            }
            object
        }
        Rope::Llama3 { factor, original_context, low_freq_factor, high_freq_factor, .. } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "original_max_position_embeddings": original_context,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
        }),
        Rope::LongRope { original_context, short_factors, long_factors, attention_factor, .. } => {
            let mut object = json!({
                "rope_type": "longrope",
                "original_max_position_embeddings": original_context,
                "short_factor": short_factors,
                "long_factor": long_factors,
            });
            if let Some(number) = attention_factor {
                object["attention_factor"] = json!(number);
            }
            object
        }
    }
}
