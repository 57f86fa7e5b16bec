        "__plain__" => print(&client.__method__(__arguments__).await.map_err(told)?),
