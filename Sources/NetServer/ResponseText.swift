import REST

/// How answers look on the wire.
enum ResponseText {
  /// The status line and header of an answer.
  static func head(_ answer: Answer, date: String, keepsAlive: Bool, saysKeepAlive: Bool) -> String {
    var text = "HTTP/1.1 \(answer.status) \(reason(answer.status))\r\nServer: borg-serve\r\nDate: \(date)\r\n"
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

  /// A status' standard words; a client's never come in here.
  static func reason(_ status: Int) -> String {
    switch status {
    case 200: "OK"
    case 206: "Partial Content"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 406: "Not Acceptable"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 410: "Gone"
    case 411: "Length Required"
    case 412: "Precondition Failed"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 416: "Range Not Satisfiable"
    case 417: "Expectation Failed"
    case 422: "Unprocessable Content"
    case 423: "Locked"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 500: "Internal Server Error"
    case 501: "Not Implemented"
    case 503: "Service Unavailable"
    case 505: "HTTP Version Not Supported"
    case 507: "Insufficient Storage"
    default: status < 400 ? "OK" : "Error"
    }
  }
}

extension Answer {
  /// A short answer in words.
  init(_ status: Int, text: String, fields: [(name: String, value: String)] = []) {
    self.init(
      status: status, fields: fields + [("Content-Type", "text/plain; charset=utf-8")],
      body: .bytes(Array(text.utf8)))
  }
}
