//! Follows one service with blocking queries, by the rules of [`Pace`]; what an agent does not name any more is not
//! believed to be gone as long as it may have forgotten it, nor because the token may not see it.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use super::{
    client::{Agent, ConsulError},
    config::Query,
    health::{Answer, Question},
    turn::{Turn, Turns},
};
use crate::{
    discovery::{pace::Pace, publish::Publisher},
    endpoint::{Endpoint, Snapshot},
    name::EndpointId,
};

/// Keeps a set up to date until it is aborted.
pub(super) async fn follow(agent: Arc<Agent>, query: Arc<Query>, publisher: Publisher) {
    let source = ask(&agent, &query, &publisher);
    match publisher.run(agent.config.max_age, source).await {}
}

async fn ask(agent: &Arc<Agent>, query: &Query, publisher: &Publisher) -> Infallible {
    let mut pace = Pace::new(agent.config.wait());
    let mut turns = Turns::new(agent, query);
    // How many there were when nothing was in doubt.
    let mut enough = 0;
    // What was said last, of which too old a set keeps nothing.
    let mut said = Snapshot::default();
    loop {
        let turn = turns.come(pace.index, pace.wait).await;
        match turn {
            // The agent was not asked to wait, so the set is looked at as it is.
            Turn::Look if pace.index > 0 => pace.look_again(),
            Turn::Ask | Turn::Look => {}
            Turn::Still => {
                publisher.confirm(said.clone());
                continue;
            }
        }
        let (index, wait) = pace.next().await;
        let doubtful = pace.is_doubtful();
        let question = Question {
            index,
            wait,
            all: doubtful,
            // What is cached, or a server that lags, may not know yet of what has just turned the tide.
            fresh: turn == Turn::Look || doubtful,
        };
        let known = publisher.known();
        let answer = {
            let _place = turns.place().await;
            believed(agent, query, publisher, &known, question).await
        };
        match answer {
            Ok(answer) => {
                if pace.is_failing() {
                    agent.pulse.recovered();
                }
                let doubtful = pace.answered(answer.index);
                let forgotten = pace.is_anew() || answer.endpoints.is_empty();
                if !doubtful {
                    enough = answer.endpoints.len();
                }
                // Where the set does not shrink, others have come for those who are gone.
                let doubtful = doubtful && answer.endpoints.len() < enough;
                let kept: Vec<_> = lost(&known, &answer.endpoints)
                    .filter(|endpoint| doubtful && answer.may_be_back(&endpoint.id, forgotten))
                    .cloned()
                    .collect();
                if kept.is_empty() {
                    said = answer.endpoints;
                    publisher.confirm(said.clone());
                } else if question.all {
                    pace.doubted();
                    let endpoints = answer.endpoints.iter().cloned();
                    said = kept.into_iter().chain(endpoints).collect();
                    publisher.confirm(said.clone());
                } else {
                    // Only those who are well were asked for, and some of the others may not have been checked yet.
                    pace.look_again();
                }
            }
            Err(error) => {
                if let Some(retry_in) = pace.failed() {
                    publisher.failed(&error, retry_in);
                }
                agent.pulse.pause(pace.retry_at()).await;
            }
        }
    }
}

/// What was known and is not there any more.
fn lost<'a>(known: &'a Snapshot, now: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Endpoint>> {
    known
        .beside(now)
        .filter(|(_, place)| place.is_none())
        .map(|(endpoint, _)| endpoint)
}

/// An answer, unless it lacks somebody only because the token may not see him any more.
async fn believed(
    agent: &Agent,
    query: &Query,
    publisher: &Publisher,
    known: &Snapshot,
    question: Question,
) -> Result<Answer, ConsulError> {
    let service = publisher.service();
    let answer = agent.instances(service, query, question).await?;
    let nodes: BTreeSet<_> = lost(known, &answer.endpoints)
        .filter_map(|endpoint| node(&endpoint.id))
        .collect();
    if lost(known, &answer.endpoints).next().is_some() && !agent.may_see(service, &nodes).await? {
        return Err(ConsulError::Hidden);
    }
    Ok(answer)
}

/// The node in an id as [`Agent::instances`] makes it.
fn node(id: &EndpointId) -> Option<&str> {
    id.as_str().rsplit_once('@').map(|(_, node)| node)
}
