import REST
import Testing

@Suite struct `A request head` {
  @Test func `gives the last of several fields`() {
    let head = RequestHead(method: .get, path: "/", fields: [("range", "bytes=0-1"), ("range", "bytes=2-3")])
    #expect(head.value("range") == "bytes=2-3")
    #expect(head.value("accept") == nil)
  }
}
