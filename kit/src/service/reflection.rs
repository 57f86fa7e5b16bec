//! Server reflection: a service tells what it is made of to who has no `.proto` file, such as grpcurl.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>. Version 1 and the one before it, `v1alpha`, differ
//! in nothing but their names. tonic's crate for it answers from a task of its own, which nobody stops; this is a body
//! that turns questions into answers as it is read.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::Frame;

use super::{grpc, message::Alone, schema::Service, server::RequestBody};
use crate::{
    Body, BoxError, Error,
    name::{Access, Method, Priority, Transport},
};

/// A question is the name of something.
const QUESTION_LIMIT: usize = 16 * 1024;

static METHODS: [Method; 2] = [
    method(
        "grpc.reflection.v1.ServerReflection",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ),
    method(
        "grpc.reflection.v1alpha.ServerReflection",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ),
];

const fn method(service: &'static str, grpc_path: &'static str) -> Method {
    Method {
        service,
        name: "ServerReflectionInfo",
        grpc_path,
        http_method: http::Method::POST,
        http_path: "",
        idempotent: true,
        streaming: true,
        transport: Transport::Grpc,
        access: Access::Anyone,
        priority: Priority::Normal,
        timeout: None,
    }
}

/// One of the two versions.
pub(super) struct Reflection(&'static Method);

impl Reflection {
    /// The one that is asked for at `path`.
    pub(super) fn at(path: &str) -> Option<Self> {
        let method = METHODS.iter().find(|method| method.grpc_path == path)?;
        Some(Self(method))
    }

    /// Answers the questions in `body` about what `describe` tells of.
    pub(super) fn answer<B: RequestBody>(
        self,
        describe: fn() -> Service,
        body: B,
    ) -> Response<Body> {
        let mut response = Response::new(Body::stream(Answers {
            service: describe(),
            questions: Some(Body::stream(body)),
            bytes: BytesMut::new(),
        }));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(grpc::CONTENT_TYPE),
        );
        response.extensions_mut().insert(self.0);
        response
    }
}

#[derive(crate::Message)]
struct Question {
    host: String,
    #[kit(tag = 3)]
    file_by_filename: Option<String>,
    file_containing_symbol: Option<String>,
    file_containing_extension: Option<Extension>,
    all_extension_numbers_of_type: Option<String>,
    list_services: Option<String>,
}

#[derive(crate::Message)]
struct Extension {
    containing_type: String,
    number: i32,
}

#[derive(crate::Message)]
struct Answer {
    host: String,
    question: Question,
    #[kit(tag = 4)]
    files: Option<Files>,
    extension_numbers: Option<ExtensionNumbers>,
    services: Option<Services>,
    error: Option<Failure>,
}

#[derive(crate::Message)]
struct Files {
    descriptors: Vec<Vec<u8>>,
}

#[derive(crate::Message)]
struct ExtensionNumbers {
    base_type_name: String,
}

#[derive(crate::Message)]
struct Services {
    services: Vec<Named>,
}

#[derive(crate::Message)]
struct Named {
    name: String,
}

#[derive(crate::Message)]
struct Failure {
    code: i32,
    message: String,
}

fn answer(service: &Service, question: Question) -> Answer {
    let mut answer = Answer {
        host: question.host.clone(),
        files: None,
        extension_numbers: None,
        services: None,
        error: None,
        question,
    };
    let Question {
        file_by_filename,
        file_containing_symbol,
        all_extension_numbers_of_type,
        list_services,
        ..
    } = &answer.question;
    let is_here = match (file_by_filename, file_containing_symbol) {
        (Some(name), _) => *name == service.file_name(),
        (_, Some(symbol)) => service.has_symbol(symbol),
        (None, None) => false,
    };
    if is_here {
        let descriptors = vec![service.file_descriptor()];
        answer.files = Some(Files { descriptors });
    } else if list_services.is_some() {
        let name = service.full_name();
        answer.services = Some(Services {
            services: vec![Named { name }],
        });
    } else if let Some(ty) = all_extension_numbers_of_type
        && service.has_symbol(ty)
    {
        // Of which there are none in proto3.
        let base_type_name = ty.clone();
        answer.extension_numbers = Some(ExtensionNumbers { base_type_name });
    } else {
        answer.error = Some(Failure {
            code: tonic::Code::NotFound as i32,
            message: "there is nothing of that name".to_owned(),
        });
    }
    answer
}

/// Answers one question after the other. Nothing is read ahead of whoever reads the answers.
struct Answers {
    service: Service,
    /// Until they have ended.
    questions: Option<Body>,
    /// What has arrived and was not read yet.
    bytes: BytesMut,
}

impl Answers {
    fn first(&mut self) -> Result<Option<Question>, Error> {
        let first = grpc::first(Alone::<Question>::MESSAGE, &self.bytes, QUESTION_LIMIT)?;
        Ok(first.map(|(question, len)| {
            self.bytes.advance(len);
            question
        }))
    }

    fn end(&mut self, ending: Result<(), Error>) -> Frame<bytes::Bytes> {
        self.questions = None;
        Frame::trailers(grpc::trailers(ending))
    }
}

impl http_body::Body for Answers {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.questions.is_none() {
                return Poll::Ready(None);
            }
            let ending = match this.bytes.is_empty() {
                true => Ok(None),
                false => this.first(),
            };
            let ending = match ending {
                Ok(Some(question)) => {
                    let answer = answer(&this.service, question);
                    match grpc::frame(Alone::MESSAGE, &answer) {
                        Ok(frame) => return Poll::Ready(Some(Ok(Frame::data(frame.into())))),
                        Err(error) => Err(error),
                    }
                }
                Ok(None) => {
                    let questions = this.questions.as_mut().expect("checked above");
                    match ready!(Pin::new(questions).poll_frame(cx)) {
                        Some(Ok(frame)) => {
                            if let Ok(data) = frame.into_data() {
                                this.bytes.extend_from_slice(&data);
                            }
                            continue;
                        }
                        Some(Err(error)) => Err(error.into()),
                        None if this.bytes.is_empty() => Ok(()),
                        None => Err(Error::invalid("", "the body must end with a whole message")),
                    }
                }
                Err(error) => Err(error),
            };
            return Poll::Ready(Some(Ok(this.end(ending))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.questions.is_none()
    }
}
