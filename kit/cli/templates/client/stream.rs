        "__plain__" => print_all(client.__method__(__arguments__).await.map_err(told)?).await,
