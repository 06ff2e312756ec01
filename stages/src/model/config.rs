//! The typed view of a Llama's `config.json`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{ModelError, Rope};

/// Shape and constants of a Llama. Fields of the file that have no place here are kept and written back.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of token ids (`vocab_size`).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks (`num_hidden_layers`).
    pub layers: usize,
    /// Number of query heads (`num_attention_heads`).
    pub heads: usize,
    /// Number of key and value heads (`num_key_value_heads`).
    pub key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest context that the model is meant for, in tokens. The file says so in `max_position_embeddings`, except
    /// for dynamic NTK and YaRN: there the file keeps the original context, from which the frequencies are computed
    /// (`transformers` 4 knows no other place for it), and the context is that times the factor.
    pub context: usize,
    /// Added to the mean square inside the root of RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the output layer is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// Id that starts a text.
    pub bos_token_id: Option<u32>,
    /// Ids that end a text (the file has one number or a list).
    pub eos_token_id: Vec<u32>,
    /// How positions turn into angles.
    pub rope: Rope,
    /// The file's other fields.
    others: Map<String, Value>,
}

/// Typed access to the fields of one object of the file.
struct Numbers<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
    prefix: &'a str,
}

impl Numbers<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.to_owned(),
            field: format!("{}{field}", self.prefix),
            problem: problem.into(),
        }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn required(&self, field: &str, expected: &str) -> Result<&Value, ModelError> {
        self.get(field).ok_or_else(|| self.error(field, format!("missing, expected {expected}")))
    }

    fn count(&self, field: &str) -> Result<usize, ModelError> {
        let expected = "a positive whole number";
        let value = self.required(field, expected)?;
        match value.as_u64() {
            Some(number) if number > 0 && number < 1 << 40 => Ok(number as usize),
            _ => Err(self.error(field, format!("found {value}, expected {expected}"))),
        }
    }

    fn optional_count(&self, field: &str) -> Result<Option<usize>, ModelError> {
        self.get(field).map(|_| self.count(field)).transpose()
    }

    fn number(&self, field: &str) -> Result<f64, ModelError> {
        let expected = "a positive number";
        let value = self.required(field, expected)?;
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(self.error(field, format!("found {value}, expected {expected}"))),
        }
    }

    fn optional_number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.get(field).map(|_| self.number(field)).transpose()
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.error(field, format!("found {value}, expected true or false"))),
        }
    }

    fn ids(&self, field: &str) -> Result<Vec<u32>, ModelError> {
        let wrong = |value: &Value| self.error(field, format!("found {value}, expected a token id or a list of them"));
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// Refuses a feature that changes the arithmetic.
    fn only(&self, field: &str, supported: &Value) -> Result<(), ModelError> {
        match self.get(field) {
            Some(value) if value != supported => {
                Err(self.error(field, format!("found {value}, only {supported} is supported")))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Reads `config.json` in a model folder. Both layouts of the rotary settings are understood: `rope_theta` with
    /// `rope_scaling`, and `rope_parameters`.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let text = fs::read(&path).map_err(ModelError::io("read", &path))?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|error| ModelError::Json { path: path.clone(), problem: error.to_string() })?;
        match value {
            Value::Object(object) => Self::from_json(&path, object),
            other => Err(ModelError::Json { path, problem: format!("found {other}") }),
        }
    }

    /// Reads the fields of a parsed file; `path` is for messages.
    pub fn from_json(path: &Path, object: Map<String, Value>) -> Result<Self, ModelError> {
        let file = Numbers { path, object: &object, prefix: "" };
        let kind = file.required("model_type", "\"llama\"")?;
        if kind != "llama" {
            return Err(file.error("model_type", format!("found {kind}, only \"llama\" is supported")));
        }
        if let Some(names) = file.get("architectures")
            && *names != json!(["LlamaForCausalLM"])
        {
            return Err(file.error("architectures", format!("found {names}, only [\"LlamaForCausalLM\"] is supported")));
        }
        file.only("hidden_act", &json!("silu"))?;
        file.only("attention_bias", &json!(false))?;
        file.only("mlp_bias", &json!(false))?;
        file.only("pretraining_tp", &json!(1))?;
        file.only("partial_rotary_factor", &json!(1.0))?;
        if file.get("quantization_config").is_some() {
            return Err(file.error("quantization_config", "quantised models are not supported"));
        }
        let hidden_size = file.count("hidden_size")?;
        let heads = file.count("num_attention_heads")?;
        // Absent, these two have a fixed meaning in this format; they are no guesses.
        let key_value_heads = file.optional_count("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match file.optional_count("head_dim")? {
            Some(width) => width,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(
                    file.error("head_dim", format!("missing, and {hidden_size} is no multiple of {heads} heads"))
                );
            }
        };
        if !heads.is_multiple_of(key_value_heads) {
            let problem = format!("found {key_value_heads}, expected a divisor of the {heads} attention heads");
            return Err(file.error("num_key_value_heads", problem));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(file.error("head_dim", format!("found {head_dim}, expected an even number")));
        }
        let positions = file.count("max_position_embeddings")?;
        let rope = read_rope(&file, positions)?;
        let context = match rope {
            Rope::DynamicNtk { factor, original_context, .. } => extended(original_context, factor),
            Rope::Yarn { factor, original_context, .. } if positions <= original_context => {
                extended(original_context, factor)
            }
            _ => positions,
        };
        let config = Self {
            vocab_size: file.count("vocab_size")?,
            hidden_size,
            intermediate_size: file.count("intermediate_size")?,
            layers: file.count("num_hidden_layers")?,
            heads,
            key_value_heads,
            head_dim,
            context,
            rms_norm_eps: file.number("rms_norm_eps")?,
            // `transformers` leaves the field out when it has the architecture's usual value, false.
            tie_word_embeddings: file.flag("tie_word_embeddings")?.unwrap_or(false),
            bos_token_id: file.ids("bos_token_id")?.first().copied(),
            eos_token_id: file.ids("eos_token_id")?,
            rope,
            others: Map::new(),
        };
        Ok(Self { others: object, ..config })
    }

    /// The fields of `config.json`: those of the file it was read from, with this configuration's values put in.
    ///
    /// The rotary settings are `rope_theta` and `rope_scaling` (with `rope_type`), which `transformers` 4.48 and 5 read
    /// alike.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = self.others.clone();
        let mut put = |field: &str, value: Value| object.insert(field.to_owned(), value);
        put("architectures", json!(["LlamaForCausalLM"]));
        put("model_type", json!("llama"));
        put("hidden_act", json!("silu"));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.layers));
        put("num_attention_heads", json!(self.heads));
        put("num_key_value_heads", json!(self.key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_id.as_slice() {
                [] => Value::Null,
                [id] => json!(id),
                ids => json!(ids),
            },
        );
        put("rope_theta", json!(self.rope.theta()));
        let positions = match self.rope {
            Rope::DynamicNtk { original_context, .. } => original_context,
            Rope::Yarn { factor, original_context, .. } if self.context == extended(original_context, factor) => {
                original_context
            }
            _ => self.context,
        };
        put("max_position_embeddings", json!(positions));
        put("rope_scaling", write_rope(&self.rope));
        object.remove("rope_parameters");
        object
    }

    /// Writes `config.json` into a folder.
    pub fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path: PathBuf = folder.join("config.json");
        let mut text = serde_json::to_vec_pretty(&self.to_json())
            .map_err(|error| ModelError::Json { path: path.clone(), problem: error.to_string() })?;
        text.push(b'\n');
        fs::write(&path, text).map_err(ModelError::io("write", &path))
    }

    /// The value of a field that has no place in this type, such as `initializer_range`.
    pub fn other(&self, field: &str) -> Option<&Value> {
        self.others.get(field)
    }

    /// Sets a field that has no place in this type.
    pub fn set_other(&mut self, field: &str, value: Value) {
        self.others.insert(field.to_owned(), value);
    }
}

/// `context * factor`, rounded to whole tokens.
fn extended(context: usize, factor: f64) -> usize {
    (context as f64 * factor).round() as usize
}

fn read_rope(file: &Numbers<'_>, positions: usize) -> Result<Rope, ModelError> {
    let field = if file.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let empty = Map::new();
    let object = match file.get(field) {
        None => &empty,
        Some(Value::Object(object)) => object,
        Some(value) => return Err(file.error(field, format!("found {value}, expected an object"))),
    };
    let prefix = format!("{field}.");
    let rope = Numbers { path: file.path, object, prefix: &prefix };
    let theta = match rope.optional_number("rope_theta")? {
        Some(theta) => theta,
        None => file.number("rope_theta")?,
    };
    rope.only("partial_rotary_factor", &json!(1.0))?;
    // Absent from the rotary settings, the original context is the model's: so do `transformers` 4.48 and 5.
    let original = || {
        let found = match rope.optional_count("original_max_position_embeddings")? {
            Some(count) => Some(count),
            None => file.optional_count("original_max_position_embeddings")?,
        };
        Ok(found.unwrap_or(positions))
    };
    let key = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    match rope.get(key) {
        None if object.keys().all(|name| name == "rope_theta") => Ok(Rope::Default { theta }),
        None => Err(rope.error("rope_type", "missing, expected the name of a scaling method")),
        Some(Value::String(name)) => match name.as_str() {
            "default" => Ok(Rope::Default { theta }),
            "linear" => Ok(Rope::Linear { theta, factor: rope.number("factor")? }),
            "dynamic" => Ok(Rope::DynamicNtk { theta, factor: rope.number("factor")?, original_context: positions }),
            "yarn" => {
                let factor = rope.number("factor")?;
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
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
            other => {
                Err(rope
                    .error(key, format!("found \"{other}\", expected one of default, linear, dynamic, yarn, llama3")))
            }
        },
        Some(value) => Err(rope.error(key, format!("found {value}, expected the name of a scaling method"))),
    }
}

fn write_rope(rope: &Rope) -> Value {
    match *rope {
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
    }
}
