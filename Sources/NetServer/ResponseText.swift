import REST

/// How answers look on the wire.
enum ResponseText {
  /// The status line and header of an answer.
  static func head(_ answer: Answer, date: String, keepsAlive: Bool, saysKeepAlive: Bool) -> String {
    var text =
      "HTTP/1.1 \(answer.status) \(HTTPStatus.phrase(answer.status))\r\nServer: borg-serve\r\nDate: \(date)\r\n"
    text.reserveCapacity(384)
    for (name, value) in answer.fields {
      // What a client has said could be in it, and must never become a field of its own.
      guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else { continue }
      text += name
      text += ": "
      text += value
      text += "\r\n"
    }
    text += "Content-Length: \(answer.contentLength)\r\n"
    if !keepsAlive {
      text += "Connection: close\r\n"
    } else if saysKeepAlive {
      text += "Connection: keep-alive\r\n"
    }
    return text + "\r\n"
  }

  static let goOn = "HTTP/1.1 100 Continue\r\n\r\n"
}

extension Answer {
  /// A short answer in words.
  init(_ status: Int, text: String, fields: [(name: String, value: String)] = []) {
    self.init(
      status: status, fields: fields + [("Content-Type", "text/plain; charset=utf-8")],
      body: .bytes(Array(text.utf8)))
  }
}
