//! DELETECOLLECTION.

use ::http::Response;
use apimachinery::status::Status;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::options::{DeleteOptions, ListOptions};
use super::{Cx, conversion, delete, list};
use crate::Body;
use crate::wire::respond;

/// Deletions under way at once.
const WORKERS: usize = 16;

pub async fn delete_collection(cx: &Cx, body: Bytes) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(cx, false)?;
    let delete_options = DeleteOptions::parse(cx, &body)?;
    let page = list::select(cx, &options).await?;
    let names: Vec<String> = page.items.iter().map(|object| object.meta.name.clone()).collect();
    for batch in names.chunks(WORKERS) {
        let deletions: Vec<BoxFuture<'_, Result<(), Status>>> =
            batch.iter().map(|name| delete_one(cx, name, &delete_options).boxed()).collect();
        for outcome in futures::future::join_all(deletions).await {
            outcome?;
        }
    }
    conversion::prepare(cx, &page.items).await?;
    let json = list::encode(cx, &page)?;
    Ok(respond::json(200, json, &cx.accepted, &cx.headers))
}

async fn delete_one(cx: &Cx, name: &str, options: &DeleteOptions) -> Result<(), Status> {
    match delete::delete_named(cx, name, options).await {
        // Somebody else deleted it meanwhile: that is what was wanted.
        Err(status) if status.code == 404 => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}
