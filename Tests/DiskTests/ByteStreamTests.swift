import Disk
import Glibc
import SystemPackage
import Testing

extension ByteInput.Outcome {
  fileprivate var bytes: [UInt8]? { if case .bytes(let bytes) = self { bytes } else { nil } }
  fileprivate var isEnd: Bool { if case .end = self { true } else { false } }
  fileprivate var isInterrupted: Bool { if case .interrupted = self { true } else { false } }
}

private func setNonBlocking(_ descriptor: Int32) {
  _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
}

struct ByteStreamTests {
  /// Writing to a broken pipe is to be an error, as in the server, and not the end of the tests.
  init() { signal(SIGPIPE, SIG_IGN) }

  // MARK: Input

  @Test(arguments: Channel.Kind.allCases)
  func `what was written is read behind the prefix, never more than asked for`(kind: Channel.Kind) throws {
    let channel = try Channel(kind)
    let input = try ByteInput(channel.reader)
    try ByteOutput(channel.writer).write([1, 2, 3, 4], count: 4)
    #expect(try input.read(behind: [9, 8], capacity: 5).bytes == [9, 8, 1, 2, 3])
    #expect(try input.read(behind: [], capacity: 100).bytes == [4])
  }

  @Test func `a prefix that fills the capacity still leaves room for a byte`() throws {
    let channel = try Channel()
    try ByteOutput(channel.writer).write([1, 2], count: 2)
    #expect(try ByteInput(channel.reader).read(behind: [7, 7, 7], capacity: 2).bytes == [7, 7, 7, 1])
  }

  @Test func `a prefix may be a slice from anywhere`() throws {
    let channel = try Channel()
    try ByteOutput(channel.writer).write([5], count: 1)
    let block: [UInt8] = [0, 1, 2, 3]
    #expect(try ByteInput(channel.reader).read(behind: block[2...], capacity: 10).bytes == [2, 3, 5])
  }

  @Test(arguments: Channel.Kind.allCases)
  func `the end comes behind all that was written, again and again`(kind: Channel.Kind) throws {
    let channel = try Channel(kind)
    let input = try ByteInput(channel.reader)
    try ByteOutput(channel.writer).write([1], count: 1)
    #expect(!input.isHungUp)
    channel.closeWriter()
    #expect(input.isHungUp)
    #expect(try input.read(behind: [], capacity: 10).bytes == [1])
    for _ in 0..<2 { #expect(try input.read(behind: [1, 2], capacity: 10).isEnd) }
  }

  @Test func `a waiting read is interrupted, and so is every later one`() throws {
    let channel = try Channel()
    let input = try ByteInput(channel.reader)
    let reading = try Background { (try? input.read(behind: [], capacity: 10).isInterrupted) ?? false }
    input.interrupt()
    #expect(reading.value() == true)
    try ByteOutput(channel.writer).write([1], count: 1)
    #expect(try input.read(behind: [], capacity: 10).isInterrupted)
    input.interrupt()
    #expect(try input.read(behind: [], capacity: 10).isInterrupted)
  }

  @Test func `a descriptor that does not block is waited for`() throws {
    let channel = try Channel()
    setNonBlocking(channel.reader)
    let input = try ByteInput(channel.reader)
    let reading = try Background { try? input.read(behind: [], capacity: 10).bytes }
    try ByteOutput(channel.writer).write([1], count: 1)
    #expect(reading.value() == [1])
  }

  @Test func `a file is a regular one, a pipe and a socket are not`() throws {
    let directory = try TemporaryDirectory()
    _ = try directory.directory.create("file")
    let descriptor = unsafe open(terminated(directory.path + Array("/file".utf8)), O_RDONLY)
    defer { _ = close(descriptor) }
    let file = try ByteInput(descriptor)
    #expect(file.isRegularFile)
    #expect(try file.read(behind: [], capacity: 10).isEnd)
    for kind in Channel.Kind.allCases {
      let channel = try Channel(kind)
      #expect(try !ByteInput(channel.reader).isRegularFile)
    }
  }

  @Test func `a peer that resets its connection has ended it`() throws {
    let channel = try Channel(.socket)
    let input = try ByteInput(channel.reader)
    // Unread bytes at the peer's end make its close a reset.
    try ByteOutput(channel.reader).write([1], count: 1)
    channel.closeWriter()
    #expect(try input.read(behind: [], capacity: 10).isEnd)
  }

  // MARK: Output

  @Test(arguments: [false, true])
  func `a large write arrives whole, however little the reader takes at a time`(isNonBlocking: Bool) throws {
    let channel = try Channel(.socket)
    if isNonBlocking { setNonBlocking(channel.writer) }
    let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) }
    let writing = try Background {
      (try? ByteOutput(channel.writer).write(bytes, count: bytes.count - 1)) != nil
    }
    let input = try ByteInput(channel.reader)
    var received: [UInt8] = []
    while received.count < bytes.count - 1 {
      received += try #require(try input.read(behind: [], capacity: 30_011).bytes)
    }
    #expect(writing.value() == true)
    #expect(received == bytes.dropLast())
  }

  @Test(arguments: Channel.Kind.allCases)
  func `a peer that is gone is a broken pipe`(kind: Channel.Kind) throws {
    let channel = try Channel(kind)
    let output = ByteOutput(channel.writer)
    #expect(!output.isHungUp)
    channel.closeReader()
    #expect(output.isHungUp)
    #expect(throws: Errno.brokenPipe) { try output.write([1], count: 1) }
  }

  @Test func `a write that waits for a peer which then goes is a broken pipe`() throws {
    let channel = try Channel()
    let writing = try Background { () -> Errno? in
      do throws(Errno) {
        try ByteOutput(channel.writer).write([UInt8](repeating: 0, count: 1 << 21), count: 1 << 21)
        return nil
      } catch {
        return error
      }
    }
    // The pipe is full as soon as its first bytes can be read.
    _ = try ByteInput(channel.reader).read(behind: [], capacity: 1)
    channel.closeReader()
    #expect(writing.value() == .brokenPipe)
  }

  @Test func `writing nothing does nothing`() throws {
    #expect(throws: Never.self) { try ByteOutput(-1).write([], count: 0) }
  }

  // MARK: Sockets

  /// A client's and a server's end of one connection.
  private func connection() throws -> (ConnectedSocket, ConnectedSocket) {
    let directory = try TemporaryDirectory()
    let path = directory.path + Array("/socket".utf8)
    let listener = try ListeningSocket(bindingTo: path)
    try listener.listen()
    let client = try ConnectedSocket(connectingTo: path)
    return (client, try #require(try listener.accept()))
  }

  @Test func `streams count the bytes that they move`() throws {
    let (client, server) = try connection()
    let (output, input) = (ByteOutput(client), try ByteInput(server))
    let copy = output
    try output.write([1, 2, 3], count: 3)
    try copy.write([4], count: 1)
    #expect(output.bytesMoved == 4 && copy.bytesMoved == 4)
    #expect(try input.read(behind: [9, 9], capacity: 5).bytes == [9, 9, 1, 2, 3])
    #expect(input.bytesMoved == 3)
    client.shutDown()
    #expect(try input.read(behind: [9], capacity: 5).bytes == [9, 4])
    #expect(try input.read(behind: [], capacity: 5).isEnd)
    #expect(input.bytesMoved == 4)
  }

  @Test func `a write that waits on a socket counts what the peer takes, and fails when it is hung up`()
    throws
  {
    let (client, server) = try connection()
    let output = ByteOutput(server)
    let writing = try Background { () -> Errno? in
      do throws(Errno) {
        try output.write([UInt8](repeating: 0, count: 1 << 24), count: 1 << 24)
        return nil
      } catch {
        return error
      }
    }
    _ = try ByteInput(client).read(behind: [], capacity: 1 << 20)
    #expect(writing.value(within: .milliseconds(50)) == nil)
    #expect((1..<1 << 24).contains(output.bytesMoved))
    #expect(output.hangUp())
    #expect(writing.value() == .brokenPipe)
  }

  @Test func `a descriptor that is the caller's is not hung up`() throws {
    let channel = try Channel(.socket)
    #expect(!ByteOutput(channel.writer).hangUp())
    #expect(throws: Never.self) { try ByteOutput(channel.writer).write([1], count: 1) }
  }

  @Test func `a socket is open for as long as one of its streams is`() throws {
    let (client, server) = try connection()
    let input = try ByteInput(client)
    do {
      let output = ByteOutput(server)
      _ = consume server
      try output.write([1], count: 1)
      #expect(try input.read(behind: [], capacity: 5).bytes == [1])
      withExtendedLifetime(output) {}
    }
    let reading = try Background { (try? input.read(behind: [], capacity: 5).isEnd) ?? false }
    #expect(reading.value() == true)
  }

  @Test(arguments: Channel.Kind.allCases)
  func `a file goes to a peer that reads slowly, straight and whole`(kind: Channel.Kind) throws {
    let place = try TemporaryDirectory()
    let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 / 251 ^ $0) }
    try place.directory.create("x").write(bytes, bytes.indices, at: 0)
    let file = try place.directory.file("x")
    let channel = try Channel(kind)
    // As connections on sockets are.
    if kind == .socket { _ = fcntl(channel.writer, F_SETFL, fcntl(channel.writer, F_GETFL) | O_NONBLOCK) }
    let output = ByteOutput(channel.writer, step: 100_000)
    let sending = try Background {
      var offset = 0
      while let sent = try? output.send(file, at: offset, count: bytes.count - offset), sent > 0 {
        offset += sent
      }
      return offset
    }
    let input = try ByteInput(channel.reader)
    var arrived: [UInt8] = []
    while arrived.count < bytes.count, case .bytes(let more) = try input.read(behind: [], capacity: 70_001) {
      arrived += more
    }
    #expect(arrived == bytes)
    #expect(sending.value() == bytes.count)
    #expect(output.bytesMoved == UInt64(bytes.count))
    #expect(try output.send(file, at: bytes.count, count: 1) == 0)
    channel.closeReader()
    #expect(throws: Errno.brokenPipe) { try output.send(file, at: 0, count: 1) }
  }

  @Test func `where the kernel cannot send a file, it says so`() throws {
    let place = try TemporaryDirectory()
    let file = try place.directory.create("x")
    try file.write([1, 2, 3], 0..<3, at: 0)
    let path = terminated(place.path + Array("/log".utf8))
    let log = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    defer { _ = close(log) }
    #expect(try ByteOutput(log).send(place.directory.file("x"), at: 0, count: 3) == nil)
  }
}
