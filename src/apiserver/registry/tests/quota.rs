//! Quotas under many writers.

use ::http::Method;
use futures::future::join_all;
use serde_json::json;

use super::Fixture;

const QUOTA: &str = "/api/v1/namespaces/n/resourcequotas";

impl Fixture {
    async fn quota(&self, hard: serde_json::Value, used: serde_json::Value) {
        self.post(QUOTA, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
        let status = json!({"status": {"hard": hard, "used": used}});
        let (code, _) = self.call(Method::PATCH, &format!("{QUOTA}/q/status"), status).await;
        assert_eq!(code, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_creators_never_take_more_than_there_is() {
    let f = Fixture::new().await;
    f.quota(json!({"count/configmaps": "20", "configmaps": "25"}), json!({"count/configmaps": "0", "configmaps": "3"}))
        .await;
    let creators = (0..64).map(|i| {
        let body = json!({"metadata": {"name": format!("c{i}")}});
        let f = &f;
        async move { f.call(Method::POST, super::CONFIG_MAPS, body).await }
    });
    let answers = join_all(creators).await;
    let made = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(made, 20);
    let refused = answers.iter().filter(|(code, _)| *code != 201);
    for (code, status) in refused {
        assert_eq!(*code, 403, "{status}");
        let text = status["message"].as_str().expect("a text");
        assert!(
            text.ends_with(
                "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=20, limited: count/configmaps=20"
            ),
            "{text}"
        );
    }
    let quota = f.get(&format!("{QUOTA}/q")).await;
    assert_eq!(quota["status"]["used"], json!({"count/configmaps": "20", "configmaps": "23"}));
    let list = f.get(super::CONFIG_MAPS).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(20));
}

#[tokio::test]
async fn a_dry_run_takes_nothing() {
    let f = Fixture::new().await;
    f.quota(json!({"configmaps": "1"}), json!({"configmaps": "0"})).await;
    let body = json!({"metadata": {"name": "a"}});
    let (code, _) = f.call(Method::POST, &format!("{}?dryRun=All", super::CONFIG_MAPS), body.clone()).await;
    assert_eq!(code, 201);
    assert_eq!(f.get(&format!("{QUOTA}/q")).await["status"]["used"], json!({"configmaps": "0"}));
    let (code, _) = f.call(Method::POST, super::CONFIG_MAPS, body.clone()).await;
    assert_eq!(code, 201);
    let (code, status) = f.call(Method::POST, super::CONFIG_MAPS, json!({"metadata": {"name": "b"}})).await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
}
