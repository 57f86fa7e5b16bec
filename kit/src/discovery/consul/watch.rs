//! Follows one service with blocking queries, by the rules of [`Pace`]; that nobody is there is not believed of a token
//! that may not see anybody.

use std::{convert::Infallible, sync::Arc, time::Duration};

use super::{
    client::{Agent, ConsulError},
    config::Query,
    health::Answer,
    turn::Turns,
};
use crate::{
    discovery::{pace::Pace, publish::Publisher},
    endpoint::Snapshot,
};

/// Keeps a set up to date until it is aborted.
pub(super) async fn follow(agent: Arc<Agent>, query: Arc<Query>, publisher: Publisher) {
    let source = ask(&agent, &query, &publisher);
    match publisher.run(agent.config.max_age, source).await {}
}

async fn ask(agent: &Arc<Agent>, query: &Query, publisher: &Publisher) -> Infallible {
    let mut pace = Pace::new(agent.config.wait());
    let mut turns = Turns::new(agent, query);
    loop {
        if turns.come(pace.index, pace.wait).await {
            // The agent was not asked to wait, so the set is looked at as it is.
            pace.look_again();
        }
        let (index, wait) = pace.next().await;
        let known = publisher.known();
        let answer = {
            let _place = turns.place().await;
            believed(agent, query, publisher, &known, index, wait).await
        };
        match answer {
            Ok(answer) => {
                let is_loss = !known.is_empty() && answer.endpoints.is_empty();
                if pace.answered(answer.index, is_loss) {
                    publisher.confirm(answer.endpoints);
                }
            }
            Err(error) => {
                let retry_in = pace.failed();
                publisher.failed(&error, retry_in);
                agent.pause(retry_in, &error).await;
            }
        }
    }
}

/// An answer, unless it says that nobody is left only because the token may not see them any more.
async fn believed(
    agent: &Agent,
    query: &Query,
    publisher: &Publisher,
    known: &Snapshot,
    index: u64,
    wait: Duration,
) -> Result<Answer, ConsulError> {
    let service = publisher.service();
    let answer = agent.instances(service, query, index, wait).await?;
    if let Some(endpoint) = known.first().filter(|_| answer.endpoints.is_empty())
        && !agent.may_see(service, endpoint).await?
    {
        return Err(ConsulError::Hidden);
    }
    Ok(answer)
}
