import Disk
import Testing

@testable import NetServer

@Suite(.serialized) struct `Limits of a network server` {
  private func time(_ work: () throws -> Void) rethrows -> Duration { try ContinuousClock().measure(work) }

  @Test(arguments: ["", "GET /r/x HT", "GET /r/x HTTP/1.1\r\nHost: h\r\n"])
  func `R12 a head that does not arrive ends its connection`(text: String) throws {
    let bed = try Bed("[limits]\nhead-time = \"200ms\"")
    let client = try bed.client()
    client.send(text)
    let taken = time {
      if !text.isEmpty { #expect(client.reply()?.status == 408) }
      #expect(client.isClosed())
    }
    #expect(taken < .seconds(5))
  }

  @Test func `R12 a head that arrives drop by drop has no more time than any other`() throws {
    let bed = try Bed("[limits]\nhead-time = \"300ms\"")
    let client = try bed.client()
    let taken = time {
      for byte in Client.request("GET", "/r/x").utf8 {
        guard client.send([byte]) else { break }
        Host.pause(.milliseconds(20))
      }
    }
    #expect(client.reply()?.status == 408)
    #expect(taken < .seconds(6))
  }

  @Test func `R12 a body that stops ends its connection`() throws {
    let bed = try Bed("[limits]\nbody-time = \"200ms\"")
    let client = try bed.client()
    client.send(Client.request("POST", "/r/x", length: 100_000))
    client.send([UInt8](repeating: 0, count: 70_000))
    #expect(client.isClosed())
    #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.abandoned == 1 ? () : nil } != nil)
  }

  @Test func `R12 an answer that nobody takes ends its connection`() throws {
    let bed = try Bed("[limits]\nanswer-time = \"200ms\"")
    let client = try bed.client()
    client.send(Client.request("GET", "/r/zeros/100000000"))
    #expect(bed.logs("operation=load", "status=0"))
    #expect(client.reply() == nil)
  }

  @Test func `R12 an idle connection ends, and one that works does not`() throws {
    let bed = try Bed("[limits]\nkeep-alive-time = \"300ms\"")
    let (idle, busy) = (try bed.client(), try bed.client())
    #expect(idle.call("GET", "/r/x")?.status == 404)
    busy.send(Client.request("POST", "/r/wait"))
    #expect(idle.isClosed())
    Host.pause(.milliseconds(100))
    bed.events.openGate()
    #expect(busy.reply()?.status == 200)
  }

  @Test func `R12 connections are limited, in all and for each address`() throws {
    let bed = try Bed("[limits]\nconnections = 3\nconnections-per-address = 2")
    let clients = try (0..<2).map { _ in try bed.client() }
    for client in clients { #expect(client.call("GET", "/r/x")?.status == 404) }
    #expect(try bed.client().isClosed())
    let other = try Client(port: bed.port(), from: "127.0.0.2")
    #expect(other.call("GET", "/r/x")?.status == 404)
    #expect(try Client(port: bed.port(), from: "127.0.0.3").isClosed())
    #expect(bed.logs("too many", "address=127.0.0.3"))
    for client in clients { #expect(client.call("GET", "/r/x")?.status == 404) }
  }

  @Test func `R12 slow clients take no threads from others`() throws {
    let bed = try Bed("threads = 2")
    let slow = try (0..<40).map { _ in try bed.client() }
    for client in slow { client.send("POST /r/x HTTP/1.1\r\nHost: h\r\nContent-Le") }
    let half = try (0..<40).map { _ in try bed.client() }
    for client in half { client.send(Client.request("POST", "/r/x", length: 10_000) + "abc") }
    let client = try bed.client()
    for number in 0..<20 { #expect(client.call("POST", "/r/x\(number)", [1])?.status == 200) }
  }

  @Test func `a body that is too large is refused without being taken`() throws {
    let bed = try Bed("[limits]\nbody = 1000")
    let client = try bed.client()
    #expect(client.call("POST", "/r/x", [UInt8](repeating: 0, count: 1001))?.status == 413)
    #expect(client.call("POST", "/r/x", [UInt8](repeating: 0, count: 1000))?.status == 200)
  }

  @Test func `R13 the end lets requests in flight be answered, and takes no new ones`() throws {
    let bed = try Bed("[limits]\ndrain-time = 10")
    let (idle, busy) = (try bed.client(), try bed.client())
    #expect(idle.call("GET", "/r/x")?.status == 404)
    busy.send(Client.request("POST", "/r/wait"))
    #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.begun == 2 ? () : nil } != nil)
    let thread = WorkerThread { bed.server.stop() }
    #expect(idle.isClosed())
    #expect(throws: (any Error).self) { _ = try bed.client() }
    bed.events.openGate()
    let reply = try #require(busy.reply())
    #expect(reply.status == 200 && reply.fields["connection"] == "close")
    #expect(busy.isClosed())
    thread?.join()
    #expect(bed.logs("stopped"))
  }

  @Test func `the end cuts what takes too long`() throws {
    let bed = try Bed("[limits]\ndrain-time = \"200ms\"")
    let client = try bed.client()
    client.send(Client.request("POST", "/r/x", length: 100_000))
    client.send([UInt8](repeating: 0, count: 70_000))
    #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.begun == 1 ? () : nil } != nil)
    bed.stop()
    #expect(client.isClosed())
    #expect(bed.events.state.withLock { $0.abandoned } == 1)
    #expect(bed.logs("connections were cut"))
  }
}
