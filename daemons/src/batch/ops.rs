//! The operations of `spiffe batch`: inputs taken by name, one library call, its verdict.

use std::time::Duration;

use serde::Serialize;
use spiffe_core::key::PrivateKey;
use spiffe_core::verify::{PeerRole, X509Limits};
use spiffe_core::{Bundle, Policy};

use super::inputs::{Inputs, TextOrBytes, missing};
use super::{Answer, Engine};
use crate::verdict::bundle::{self, Bundles, Form, MAX_DOCUMENT_BYTES};
use crate::verdict::x509::ChainDocument;
use crate::verdict::{Judged, Refusal, id, jwt, policy, x509};

/// Answers one question.
///
/// # Errors
///
/// A question that cannot be asked so; verdicts are answers.
pub(super) fn answer(engine: &Engine, op: &str, inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    match op {
        "id.parse" => id_parse(inputs),
        "trust_domain.parse" => trust_domain_parse(inputs),
        "id.join" => id_join(inputs),
        "x509.parse" => x509_parse(engine, inputs),
        "x509.verify" => x509_verify(engine, inputs),
        "jwt.parse" => jwt_parse(inputs),
        "jwt.verify" => jwt_verify(engine, inputs),
        "bundle.parse" => bundle_parse(inputs),
        "bundle.convert" => bundle_convert(inputs),
        "match" => matches(inputs),
        other => Err(Refusal::usage(format_args!(
            "there is no operation {other:?}"
        ))),
    }
}

fn id_parse(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let text = inputs
        .text_or_bytes("text", "text_b64")?
        .ok_or_else(|| missing("text"))?;
    inputs.finish()?;
    Ok(said("id.parse", id::parse(text.as_bytes())))
}

fn trust_domain_parse(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let text = inputs
        .text_or_bytes("text", "text_b64")?
        .ok_or_else(|| missing("text"))?;
    inputs.finish()?;
    let verdict = id::parse_trust_domain(text.as_bytes());
    Ok(said("trust_domain.parse", verdict))
}

fn id_join(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let trust_domain = inputs.text("trust_domain")?;
    let segments = inputs.texts("segments")?;
    inputs.finish()?;
    Ok(said("id.join", id::join(&trust_domain, &segments)))
}

fn x509_parse(engine: &Engine, mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let chain = chain(&mut inputs)?;
    let key = inputs.text_or_bytes("key_pem", "key_der_b64")?;
    inputs.finish()?;
    let key = key.map(|key| match key {
        TextOrBytes::Text(pem) => x509::key_from_pem(&pem),
        TextOrBytes::Bytes(der) => Ok(PrivateKey::from_pkcs8_der(der)),
    });
    let verdict = key
        .transpose()
        .and_then(|key| x509::parse(document(&chain), key, &engine.crypto));
    Ok(said("x509.parse", verdict))
}

fn x509_verify(engine: &Engine, mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let chain = chain(&mut inputs)?;
    let documents = inputs.text_map("bundles")?;
    let at = inputs.time("at")?;
    let authorize = inputs.optional_text("authorize")?;
    let mut limits = X509Limits::default();
    let mut max_document_bytes = MAX_DOCUMENT_BYTES;
    for (name, limit) in inputs.optional_number_map("limits")? {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        match &*name {
            "max_certificates" => limits = limits.max_certificates(limit),
            "max_intermediates" => limits = limits.max_intermediates(limit),
            "max_document_bytes" => max_document_bytes = limit.min(MAX_DOCUMENT_BYTES),
            other => {
                return Err(Refusal::usage(format_args!("there is no limit {other:?}")));
            }
        }
    }
    inputs.finish()?;
    let judge = |policy: Option<Policy>, bundles: Bundles| {
        let question = x509::Question {
            chain: document(&chain),
            bundles: &bundles,
            at,
            role: PeerRole::Unspecified,
            policy: policy.as_ref(),
            limits,
            max_document_bytes,
        };
        x509::verify(&question, &engine.crypto, engine.explain)
    };
    let sniffed = |document: &str| match Form::sniff(document.as_bytes()) {
        Form::Spiffe => Form::Spiffe,
        _ => Form::Pem,
    };
    let judged = authorize
        .map(|text| policy(&text))
        .transpose()
        .and_then(|policy| {
            let mut bundles = Bundles::new();
            for (trust_domain, document) in &documents {
                let form = sniffed(document);
                bundles.add(trust_domain, document.as_bytes(), form, max_document_bytes)?;
            }
            Ok(judge(policy, bundles))
        })
        .unwrap_or_else(|refusal| Judged::from(Err(refusal)));
    Ok(Answer::new("x509.verify", judged))
}

fn jwt_parse(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let token = inputs.text("token")?;
    inputs.finish()?;
    Ok(said("jwt.parse", jwt::parse(&token)))
}

fn jwt_verify(engine: &Engine, mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let token = inputs.text("token")?;
    let audience = inputs.text("audience")?;
    let documents = inputs.text_map("bundles")?;
    let form = match inputs.optional_text("format")?.as_deref() {
        None | Some("spiffe") => Form::Spiffe,
        Some("workload-api") => Form::WorkloadApiJwks,
        Some(other) => {
            return Err(Refusal::usage(format_args!(
                "\"format\" is {other:?}, neither \"spiffe\" nor \"workload-api\""
            )));
        }
    };
    let at = inputs.time("at")?;
    let leeway = inputs.optional_number("leeway_s")?.map(Duration::from_secs);
    let authorize = inputs.optional_text("authorize")?;
    inputs.finish()?;
    let judged = authorize
        .map(|text| policy(&text))
        .transpose()
        .and_then(|policy| {
            let mut bundles = Bundles::new();
            for (trust_domain, document) in &documents {
                bundles.add(trust_domain, document.as_bytes(), form, MAX_DOCUMENT_BYTES)?;
            }
            let question = jwt::Question {
                token: &token,
                audience: &audience,
                bundles: &bundles,
                at,
                leeway,
                policy: policy.as_ref(),
            };
            Ok(jwt::verify(&question, &engine.crypto, engine.explain))
        })
        .unwrap_or_else(|refusal| Judged::from(Err(refusal)));
    Ok(Answer::new("jwt.verify", judged))
}

fn bundle_parse(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let bundle = read_bundle(&mut inputs)?;
    inputs.finish()?;
    let verdict = bundle().map(|bundle| bundle::Summary::from(&bundle));
    Ok(said("bundle.parse", verdict))
}

fn bundle_convert(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let bundle = read_bundle(&mut inputs)?;
    let to = form(&inputs.text("to")?, "to")?;
    inputs.finish()?;
    let verdict = bundle().map(|bundle| bundle::write(&bundle, to));
    Ok(said("bundle.convert", verdict))
}

fn matches(mut inputs: Inputs<'_>) -> Result<Answer, Refusal> {
    let text = inputs.text("policy")?;
    let id = inputs.text("id")?;
    inputs.finish()?;
    let verdict = policy(&text).and_then(|policy| id::matches(&policy, &id));
    Ok(said("match", verdict))
}

fn said<V: Serialize>(operation: &'static str, verdict: Result<V, Refusal>) -> Answer {
    Answer::new(operation, Judged::from(verdict))
}

fn chain<'a>(inputs: &mut Inputs<'a>) -> Result<TextOrBytes<'a>, Refusal> {
    inputs
        .text_or_bytes("chain_pem", "chain_der_b64")?
        .ok_or_else(|| missing("chain_pem"))
}

fn document<'a>(chain: &'a TextOrBytes<'_>) -> ChainDocument<'a> {
    match chain {
        TextOrBytes::Text(pem) => ChainDocument::Pem(pem),
        TextOrBytes::Bytes(der) => ChainDocument::Der(der),
    }
}

fn form(name: &str, input: &str) -> Result<Form, Refusal> {
    Form::named(name).ok_or_else(|| {
        let known = Form::ALL.map(Form::name).join(", ");
        Refusal::usage(format_args!("{input:?} is {name:?}, none of {known}"))
    })
}

/// Takes the inputs of a bundle; what comes back reads it.
fn read_bundle<'a>(
    inputs: &mut Inputs<'a>,
) -> Result<impl FnOnce() -> Result<Bundle, Refusal> + use<'a>, Refusal> {
    let trust_domain = inputs.text("trust_domain")?;
    let document = inputs.text_or_bytes("document", "document_b64")?;
    let format = inputs.text("format")?;
    let form = form(&format, "format")?;
    let document = match (document, form) {
        (None, Form::Der) => return Err(missing("document_b64")),
        (None, _) => return Err(missing("document")),
        (Some(TextOrBytes::Text(_)), Form::Der) => {
            return Err(Refusal::usage(
                "the format der is given as \"document_b64\"",
            ));
        }
        (Some(TextOrBytes::Bytes(_)), Form::Spiffe | Form::Pem | Form::WorkloadApiJwks) => {
            return Err(Refusal::usage("\"document_b64\" is for the format der"));
        }
        (Some(document), _) => document,
    };
    Ok(move || bundle::parse(&trust_domain, document.as_bytes(), form))
}
