//! Writes the same weights under another rotary configuration.

use super::{ExtendRope, Method};
use crate::{
    model::{Companions, Config, Rope, copy_companions},
    stage::{Context, SettingError, StageError},
};

pub(super) fn run(settings: &ExtendRope, context: &Context) -> Result<(), StageError> {
    let folder = context.input(&settings.model)?;
    let mut config = Config::read(folder)?;
    config.rope = extended(settings, &config)?;
    config.context = settings.context;
    copy_companions(folder, context.output(), Companions::WeightsAndTokenizer)?;
    config.write(context.output())?;
    Ok(())
}

/// The new rotary embedding of a model.
fn extended(settings: &ExtendRope, config: &Config) -> Result<Rope, StageError> {
    if let Method::Base { theta } = settings.method {
        return Ok(Rope::Default { theta });
    }
    let Rope::Default { theta } = config.rope else {
        return Err(SettingError::new(
            "method",
            format!("{:?}", settings.method),
            format!(
                "`Base`, or a model that is not scaled yet: `{}` has {:?} and scaling does not add up",
                settings.model, config.rope
            ),
        )
        .into());
    };
    let original_context = config.context;
    if settings.context < original_context {
        let expected = format!("at least {original_context}, the context of `{}`", settings.model);
        return Err(SettingError::new("context", settings.context, expected).into());
    }
    let factor = settings.context as f64 / original_context as f64;
    Ok(match settings.method {
        Method::Base { theta } => Rope::Default { theta },
        Method::LongRope { ref short_factors, ref long_factors, attention_factor } => {
            let pairs = config.rotary_dim() / 2;
            for (field, factors) in [("short_factors", short_factors), ("long_factors", long_factors)] {
                if factors.len() != pairs {
                    let expected = format!("{pairs}, one for each pair of numbers that `{}` rotates", settings.model);
                    let found = format!("a list of {}", factors.len());
                    return Err(SettingError::new(format!("method.{field}"), found, expected).into());
                }
            }
            Rope::LongRope {
                theta,
                original_context,
                context: settings.context,
                short_factors: short_factors.clone(),
                long_factors: long_factors.clone(),
                attention_factor,
            }
        }
        Method::Linear => Rope::Linear { theta, factor },
        Method::NtkAware => Rope::Default { theta: Rope::ntk_aware_theta(theta, factor, config.rotary_dim()) },
        Method::DynamicNtk => Rope::DynamicNtk { theta, factor, original_context },
        Method::Yarn { beta_fast, beta_slow } => {
            Rope::Yarn { theta, factor, original_context, beta_fast, beta_slow, attention_factor: None, truncate: true }
        }
        Method::Llama3 { low_freq_factor, high_freq_factor } => {
            Rope::Llama3 { theta, factor, original_context, low_freq_factor, high_freq_factor }
        }
    })
}
