//! The face that the `authorizer` variable asks: the host decides, this crate only builds the question.

use std::rc::Rc;

use crate::ext::Ext;
use crate::value::Value;

/// Decides for the user of the request, or for a service account.
pub trait Authorizer {
    /// May the subject do this? `service_account` is (namespace, name), where the expression asks for another one
    /// than the request's user.
    fn check(&self, question: &Question<'_>) -> Decision;
}

/// What an expression asks.
#[derive(Debug)]
pub struct Question<'q> {
    pub service_account: Option<(&'q str, &'q str)>,
    pub verb: &'q str,
    pub target: Target<'q>,
}

#[derive(Debug)]
pub enum Target<'q> {
    Path(&'q str),
    Resource(&'q Check),
}

/// A question about a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// An authorizer and the subject that it decides for.
#[derive(Clone)]
pub struct Handle<'a> {
    pub(crate) host: Rc<dyn Authorizer + 'a>,
    pub(crate) service_account: Option<(String, String)>,
}

impl Handle<'_> {
    pub(crate) fn ask(&self, verb: &str, target: Target<'_>) -> Decision {
        let service_account = self.service_account.as_ref().map(|(namespace, name)| (&**namespace, &**name));
        self.host.check(&Question { service_account, verb, target })
    }
}

impl<'a> Value<'a> {
    /// The value of the variable `authorizer`.
    pub fn authorizer(host: Rc<dyn Authorizer + 'a>) -> Value<'a> {
        Value::Ext(Ext::Authorizer(Rc::new(Handle { host, service_account: None })))
    }

    /// The value of the variable `authorizer.requestResource`.
    pub fn resource_check(host: Rc<dyn Authorizer + 'a>, check: Check) -> Value<'a> {
        Value::Ext(Ext::ResourceCheck(Rc::new((Handle { host, service_account: None }, check))))
    }
}
