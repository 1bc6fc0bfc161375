import REST
import Testing

@testable import NetServer

@Suite struct `Heads of requests` {
  private func parse(_ text: String) throws -> (NetworkHead, bodyStart: Int)? {
    var parser = RequestParser()
    return try parser.parse(Array(text.utf8), from: 0)
  }

  private func status(_ text: String) -> Int? {
    do {
      return try parse(text) == nil ? 0 : nil
    } catch {
      return (error as? BadRequest)?.status
    }
  }

  @Test func `are read as they are`() throws {
    let text =
      "POST /a/b//?cmd=move&current=x HTTP/1.1\r\nHost: h\r\nX-A:  b c \r\nContent-Length: 12\r\nAuthorization: Basic x\r\n\r\nbody"
    let parsed = try parse(text)
    let (head, start) = try #require(parsed)
    #expect(
      head.request.method == .post && head.request.path == "/a/b//"
        && head.request.query == "cmd=move&current=x")
    #expect(head.request.contentLength == 12 && head.request.value("x-a") == "b c")
    #expect(head.keepsAlive && !head.expectsContinue)
    // No dialect has to see a password.
    #expect(head.authorization == "Basic x" && head.request.value("authorization") == nil)
    #expect(start == text.utf8.count - 4)
  }

  @Test func `are found however they arrive`() throws {
    let text = Array("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nrest".utf8)
    for piece in 1..<text.count - 4 {
      var parser = RequestParser()
      for end in stride(from: 0, to: text.count - 4, by: piece) {
        #expect(try parser.parse(Array(text[..<end]), from: 0) == nil)
      }
      #expect(try parser.parse(text, from: 0)?.bodyStart == text.count - 4)
    }
  }

  @Test(arguments: [
    ("HTTP/1.1", "", true), ("HTTP/1.1", "Connection: close\r\n", false),
    ("HTTP/1.1", "Connection: x, Close\r\n", false),
    ("HTTP/1.0", "", false), ("HTTP/1.0", "Connection: keep-alive\r\n", true),
    ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
  ])
  func `say whether another may follow`(version: String, fields: String, keepsAlive: Bool) throws {
    let parsed = try parse("GET / \(version)\r\nHost: h\r\n\(fields)\r\n")
    #expect(parsed?.0.keepsAlive == keepsAlive)
  }

  /// What two servers in a row could understand differently, and what is no HTTP at all.
  @Test(arguments: [
    ("GET / HTTP/1.1\nHost: h\n\n", 400), ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\n x: y\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n: h\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400), ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400), ("GET /\r\n\r\n", 400),
    ("GET / http/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400), ("PRI * HTTP/2.0\r\n\r\n", 505),
    ("GET x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /\u{1} HTTP/1.1\r\nHost: h\r\n\r\n", 400), ("GET /ä HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400), ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 411),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n", 417),
    ("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    ("GET /" + String(repeating: "a", count: 16 * 1024), 414),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: " + String(repeating: "a", count: 64 * 1024), 431),
    ("GET / HTTP/1.1\r\nHost: h\r\n" + String(repeating: "X: a\r\n", count: 100), 431),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: a", 0), ("GET / HTTP/1.1\r\nHost: h\r\n\r", 0),
  ])
  func `are refused wherever two servers could disagree`(text: String, status: Int) {
    #expect(self.status(text) == status)
  }

  @Test func `may be whole URLs`() throws {
    for (target, path) in [("http://h:1/a?b#c", "/a"), ("http://h", "/"), ("HTTPS://h/x/y", "/x/y")] {
      let parsed = try parse("GET \(target) HTTP/1.1\r\nHost: h\r\n\r\n")
      #expect(parsed?.0.request.path == path)
    }
  }

  @Test func `an answer never takes over a line of the client's`() {
    let answer = Answer(status: 404, fields: [("X-Name", "a\r\nX-Evil: 1"), ("X-Good", "1")])
    let text = ResponseText.head(answer, date: "now", keepsAlive: true, saysKeepAlive: false)
    #expect(
      !text.contains("Evil") && text.contains("X-Good: 1\r\n") && text.hasPrefix("HTTP/1.1 404 Not Found\r\n")
    )
  }
}
