//! The typed view of `config.json`.

mod fields;
mod rope;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{Architecture, ModelError, Rope};
pub(super) use fields::Fields;

/// Shape and constants of a model. Fields of the file that have no place here are kept and written back.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which model this is, and what only this one has.
    pub architecture: Architecture,
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
    /// Share of each head that is rotated by position; the rest is left alone. See [`Config::rotary_dim`].
    pub partial_rotary_factor: f64,
    /// Longest context that the model is meant for, in tokens. The file says so in `max_position_embeddings`, except
    /// for dynamic NTK and YaRN: there the file keeps the original context, from which the frequencies are computed
    /// (`transformers` 4 knows no other place for it), and the context is that times the factor.
    pub context: usize,
    /// Added to the mean square (RMSNorm) or the variance (LayerNorm) inside the root.
    pub norm_epsilon: f64,
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
        let file = Fields { path, object: &object, prefix: "" };
        let architecture = Architecture::read(&file)?;
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
        let partial_rotary_factor = match rope::partial_rotary_factor(&file)? {
            Some(share) if share > 1.0 || !architecture.rotates_partially() && share != 1.0 => {
                let supported = if architecture.rotates_partially() { "1.0 at most" } else { "only 1.0" };
                return Err(file.error("partial_rotary_factor", format!("found {share}, {supported} is supported")));
            }
            Some(share) => share,
            None => architecture.usual_partial_rotary_factor(),
        };
        let rotary_dim = rotary_dim(head_dim, partial_rotary_factor);
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let problem = format!(
                "found {partial_rotary_factor}, which rotates {rotary_dim} of {head_dim} numbers of a head, expected an \
                 even number of them"
            );
            return Err(file.error("partial_rotary_factor", problem));
        }
        let positions = file.count("max_position_embeddings")?;
        let rope = rope::read(&file, rotary_dim, positions)?;
        let context = match rope {
            Rope::DynamicNtk { factor, original_context, .. } => extended(original_context, factor),
            Rope::Yarn { factor, original_context, .. } if positions <= original_context => {
                extended(original_context, factor)
            }
            _ => positions,
        };
        let config = Self {
            architecture,
            vocab_size: file.count("vocab_size")?,
            hidden_size,
            intermediate_size: file.count("intermediate_size")?,
            layers: file.count("num_hidden_layers")?,
            heads,
            key_value_heads,
            head_dim,
            partial_rotary_factor,
            context,
            norm_epsilon: file.number(architecture.epsilon_field())?,
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
        self.architecture.write(&mut put);
        put(self.architecture.epsilon_field(), json!(self.norm_epsilon));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.layers));
        put("num_attention_heads", json!(self.heads));
        put("num_key_value_heads", json!(self.key_value_heads));
        put("head_dim", json!(self.head_dim));
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
        put("rope_scaling", rope::write(&self.rope));
        if self.architecture.rotates_partially() {
            put("partial_rotary_factor", json!(self.partial_rotary_factor));
        }
        match self.rope {
            // `transformers` 4 reads it from here for this kind.
            Rope::LongRope { original_context, .. } => {
                put("original_max_position_embeddings", json!(original_context));
            }
            // `transformers` 5 would take this field for the one in `rope_scaling`.
            _ => drop(object.remove("original_max_position_embeddings")),
        }
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

    /// How many numbers of each head are rotated: the first ones.
    pub fn rotary_dim(&self) -> usize {
        rotary_dim(self.head_dim, self.partial_rotary_factor)
    }

    /// Kinds of dropout that the file asks for in training, by field, with their probabilities. None of them is
    /// applied here.
    pub fn dropout(&self) -> Vec<(&'static str, f64)> {
        let found = |field| Some((field, self.others.get(field)?.as_f64()?));
        let fields = ["attention_dropout", "embd_pdrop", "resid_pdrop"];
        fields.into_iter().filter_map(found).filter(|(_, probability)| *probability > 0.0).collect()
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

/// As `transformers` computes it: rounded down.
fn rotary_dim(head_dim: usize, partial_rotary_factor: f64) -> usize {
    (head_dim as f64 * partial_rotary_factor) as usize
}

/// `context * factor`, rounded to whole tokens.
fn extended(context: usize, factor: f64) -> usize {
    (context as f64 * factor).round() as usize
}
