import BorgFormat
import NIOCore
import REST

/// What all connections of a server share.
struct Shared: Sendable {
  let front: Front
  let registry: Registry
  let metrics: Metrics
  let log: Log
  let connections: Connections
  /// For what waits for disks, and for hashing passwords.
  let workers: WorkerPool
  let checkers: PasswordCheckers
  let pace = Pace()
  /// The dialect: takes up a request to a place.
  let begin: @Sendable (RequestHead, any StorePlace, Permissions) -> any Exchange
  /// The page of metrics. May block.
  let page: @Sendable () -> String
}

/// One client's connection: reads its requests one after the other, has them executed, and writes their answers.
///
/// At most `NetworkLimits.block` bytes of a body wait here while as many are being taken, and `NetworkLimits.unsent` of an
/// answer wait for the client: then no more is read. What may block runs on the workers, one call at a time.
///
/// `@unchecked Sendable`: everything is touched on the connection's event loop only, except what is handed to workers.
final class ConnectionHandler: ChannelDuplexHandler, @unchecked Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let shared: Shared
  private let origin: Origin
  private let eventLoop: any EventLoop
  private var limits: NetworkLimits
  private var number = 0

  private enum Phase {
    /// Between requests, or in the middle of a head.
    case head
    /// A request's body is taken.
    case body
    /// Somebody else is at work, or an answer is on its way.
    case waiting
    /// Nothing is read any more but to be dropped.
    case closing
  }

  private var context: ChannelHandlerContext?
  private var phase = Phase.head
  private var request: CurrentRequest?
  /// What has arrived and is not yet taken: from `start` on.
  private var input: [UInt8] = []
  private var start = 0
  /// An array with room that a worker has given back.
  private var spare: [UInt8] = []
  private var parser = RequestParser()
  /// Whether a head has begun to arrive, and its time to run out.
  private var isReadingHead = false
  private var isAdvancing = false
  private var isInputClosed = false
  private var isDraining = false
  private var isGone = false
  private var hasHeldRead = false
  /// The user, or nothing, whom the log knows of.
  private var announced: String??
  private var timer: Scheduled<Void>?
  private var timerTime = NIODeadline.distantFuture
  private var deadline = NIODeadline.distantFuture
  private var date = (seconds: 0, text: "")

  init(_ shared: Shared, origin: Origin, eventLoop: any EventLoop) {
    (self.shared, self.origin, self.eventLoop) = (shared, origin, eventLoop)
    limits = shared.front.current.configuration.limits
  }

  // MARK: The channel's life

  /// Takes its place among the connections; false if there is none.
  func enter() -> Bool {
    let number = shared.connections.enter(self, from: origin.site, limits: limits)
    shared.metrics.countConnection(refused: number == nil)
    self.number = number ?? 0
    return number != nil
  }

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    expect(within: limits.headTime)
  }

  func channelInactive(context: ChannelHandlerContext) {
    leave()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    leave()
    self.context = nil
  }

  private func leave() {
    guard !isGone else { return }
    isGone = true
    timer?.cancel()
    shared.connections.leave(number, from: origin.site)
    if let request, !request.isWorking { giveUp(request) }
    (input, spare) = ([], [])
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    shared.log.write(
      .debug, "connection failed",
      ["connection": .number(number), "address": .text(origin.address), "error": .text("\(error)")])
    context.close(promise: nil)
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .some(ChannelEvent.inputClosed) = event as? ChannelEvent {
      isInputClosed = true
      advance()
      // What is here already may be all that the client wanted to say; anything less is nothing.
      switch phase {
      case .head, .closing: context.close(promise: nil)
      case .body where request?.isWorking == false: context.close(promise: nil)
      case .body, .waiting: break
      }
      return
    }
    context.fireUserInboundEventTriggered(event)
  }

  /// Ends the connection once what is in flight is answered. From any thread.
  func drain() {
    eventLoop.execute { [self] in
      isDraining = true
      if phase == .head, start >= input.count { context?.close(promise: nil) }
    }
  }

  /// Ends the connection at once. From any thread.
  func cut() {
    eventLoop.execute { [self] in context?.close(promise: nil) }
  }

  // MARK: Time

  private func expect(within seconds: Double?) {
    deadline = seconds.map { .now() + .nanoseconds(Int64($0 * 1e9)) } ?? .distantFuture
    if deadline < timerTime { schedule() }
  }

  /// One timer for all times: while they only move further away it is left as it is, and set anew when it goes off.
  private func schedule() {
    guard let context, !isGone else { return }
    timer?.cancel()
    timerTime = deadline
    timer = context.eventLoop.scheduleTask(deadline: deadline) { [self] in
      timerTime = .distantFuture
      guard deadline <= .now() else {
        if deadline < .distantFuture { schedule() }
        return
      }
      timeOut()
    }
  }

  private func timeOut() {
    shared.log.write(
      .debug, "connection timed out", ["connection": .number(number), "address": .text(origin.address)])
    if phase == .head, start < input.count {
      refuse(BadRequest(408, "the request took too long"))
    } else {
      context?.close(promise: nil)
    }
  }

  // MARK: Input

  func read(context: ChannelHandlerContext) {
    guard phase == .closing || input.count - start < NetworkLimits.block else {
      hasHeldRead = true
      return
    }
    context.read()
  }

  private func resumeReading() {
    guard hasHeldRead, phase == .closing || input.count - start < NetworkLimits.block else { return }
    hasHeldRead = false
    context?.read()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard phase != .closing else { return }
    let buffer = unwrapInboundIn(data)
    if start == input.count {
      input.removeAll(keepingCapacity: true)
      start = 0
      parser.restart()
    }
    input.append(contentsOf: buffer.readableBytesView)
    advance()
  }

  private func advance() {
    guard !isAdvancing else { return }
    isAdvancing = true
    while !isGone, step() {}
    isAdvancing = false
    if !isGone { resumeReading() }
  }

  /// Does what can be done next; false if something has to come first.
  private func step() -> Bool {
    switch phase {
    case .head: readHead()
    case .body: takeBody()
    case .waiting, .closing: false
    }
  }

  private func readHead() -> Bool {
    guard start < input.count else {
      if input.capacity > 2 * NetworkLimits.block { input = [] }
      spare = []
      return false
    }
    do throws(BadRequest) {
      guard let (head, bodyStart) = try parser.parse(input, from: start) else {
        if !isReadingHead { expect(within: limits.headTime) }
        isReadingHead = true
        return false
      }
      (start, isReadingHead) = (bodyStart, false)
      begin(head)
      return true
    } catch {
      refuse(error)
      return false
    }
  }

  /// Answers what is no request and ends the connection: where the next one begins is not certain.
  private func refuse(_ bad: BadRequest) {
    shared.metrics.countBadRequest()
    shared.log.write(
      .info, "malformed request",
      [
        "connection": .number(number), "address": .text(origin.address), "status": .number(bad.status),
        "reason": .text(bad.reason),
      ])
    guard let context else { return }
    let answer = Answer(bad.status, text: bad.reason)
    var buffer = context.channel.allocator.buffer(capacity: 512)
    buffer.writeString(ResponseText.head(answer, date: now(), keepsAlive: false, saysKeepAlive: false))
    if case .bytes(let bytes) = answer.body { buffer.writeBytes(bytes) }
    context.writeAndFlush(wrapOutboundOut(buffer), promise: nil)
    linger()
  }

  /// Closes our side, and goes on dropping what comes for a moment: closing at once with bytes unread would take the answer
  /// away from the client.
  private func linger() {
    phase = .closing
    (input, start) = ([], 0)
    expect(within: 2)
    guard let context else { return }
    context.close(mode: .output).whenFailure { [self] _ in self.context?.close(promise: nil) }
    if isInputClosed { closeWhenWritten() }
    resumeReading()
  }

  private func closeWhenWritten() {
    guard let context else { return }
    phase = .closing
    let promise = context.eventLoop.makePromise(of: Void.self)
    promise.futureResult.whenComplete { [self] _ in self.context?.close(promise: nil) }
    context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: promise)
  }

  // MARK: A request

  private func begin(_ head: NetworkHead) {
    let request = CurrentRequest(head, origin: shared.front.address(of: head, from: origin))
    self.request = request
    expect(within: nil)
    guard head.request.contentLength <= limits.body else {
      request.refusal = Answer(413, text: "the body has more than \(limits.body) bytes")
      return goOn(request)
    }
    decide(request, known: nil)
  }

  private func decide(_ request: CurrentRequest, known: (BasicCredentials, Credentials.Verdict)?) {
    let shared = shared
    switch shared.front.decide(request.head, from: request.origin, known: known) {
    case .repository(let name, let rest, let visitor):
      announce(visitor, request)
      request.user = visitor.user
      request.repository = name
      var head = request.head.request
      head.path = rest
      let (place, isWarm) = shared.registry.enter(name)
      request.isWarm = isWarm
      request.execution = Execution { [head] in shared.begin(head, place, visitor.grant.permissions) }
      goOn(request)
    case .page(let page, let visitor):
      (request.user, request.operation) = (visitor.user, page)
      request.execution = Execution { PageExchange { page == .health ? "ok\n" : shared.page() } }
      goOn(request)
    case .check(let credentials):
      phase = .waiting
      let loop = eventLoop
      let isQueued = shared.checkers.check(credentials, from: request.origin.site) { [self] verdict in
        loop.execute { [self] in
          guard !isGone else { return }
          shared.metrics.countLogin(verdict == .right ? "right" : "wrong")
          decide(request, known: (credentials, verdict))
          advance()
        }
      }
      guard !isQueued else { return }
      request.refusal = Answer(503, text: "too many logins at a time", fields: [("Retry-After", "5")])
      goOn(request)
    case .refused(let answer, let user, let reason):
      if answer.status == 429 { shared.metrics.countLogin("throttled") }
      let isQuiet = answer.status == 406 || answer.status == 401 && user == nil
      shared.log.write(
        isQuiet ? .debug : .warning, "refused",
        [
          "connection": .number(number), "address": .text(request.origin.address),
          "user": user.map { .text($0) },
          "path": .text(request.head.request.path.shortened), "status": .number(answer.status),
          "reason": .text(reason),
        ])
      (request.user, request.refusal) = (user, answer)
      goOn(request)
    }
  }

  /// Notes a login: the first request of a user on a connection.
  private func announce(_ visitor: Visitor, _ request: CurrentRequest) {
    guard announced == nil || announced != .some(visitor.user) else { return }
    announced = .some(visitor.user)
    guard let user = visitor.user else { return }
    shared.log.write(
      .info, "login",
      [
        "connection": .number(number), "address": .text(request.origin.address), "user": .text(user),
        "mode": .text(visitor.grant.permissions.rawValue),
      ])
  }

  /// Begins to take the body of a request of which it is known what is to become of it.
  private func goOn(_ request: CurrentRequest) {
    phase = .body
    if request.head.expectsContinue, request.bodyLeft > 0 {
      if request.refusal == nil {
        context?.writeAndFlush(wrapOutboundOut(ByteBuffer(string: ResponseText.goOn)), promise: nil)
      } else {
        // It waits with its body, or will not send it: what comes next is not known.
        (request.keepsAlive, request.lingers, request.bodyLeft) = (false, true, 0)
      }
    }
    if request.refusal != nil, request.bodyLeft > CurrentRequest.dropLimit {
      (request.keepsAlive, request.lingers, request.bodyLeft) = (false, true, 0)
    }
    if request.bodyLeft > 0 { expect(within: limits.bodyTime) }
  }

  /// Hands what there is of the body to a worker. Small bodies go as a whole, so that a request costs one change of threads.
  private func takeBody() -> Bool {
    guard let request, !request.isWorking else { return false }
    let available = min(request.bodyLeft, input.count - start)
    if let refusal = request.refusal {
      start += available
      request.bodyLeft -= available
      if request.bodyLeft == 0 {
        answer(request, refusal, ByteBuffer(), isWhole: true)
      } else {
        expect(within: limits.bodyTime)
      }
      return request.bodyLeft == 0
    }
    let isLast = available == request.bodyLeft
    let isSmall = request.head.request.contentLength <= NetworkLimits.block
    guard isLast || !isSmall && available > 0, let execution = request.execution else {
      if isInputClosed { context?.close(promise: nil) } else { expect(within: limits.bodyTime) }
      return false
    }
    request.bodyLeft -= available
    request.received += available
    let piece = piece(of: available)
    let withBody = request.head.request.method != .head
    work(request, isQuick: isLast && isQuick(request)) {
      let outcome = execution.take(piece.bytes, piece.range, isLast: isLast, withBody: withBody)
      return { handler in
        if !piece.range.isEmpty {
          // Room for what comes next; nobody else has this array any more.
          swap(&handler.spare, &piece.bytes)
          handler.spare.removeAll(keepingCapacity: true)
        }
        switch outcome {
        case .more: handler.expect(within: request.bodyLeft > 0 ? handler.limits.bodyTime : nil)
        case .answered(let answer, let block, let isWhole):
          handler.answer(request, answer, block, isWhole: isWhole)
        case .failed: handler.fail(request)
        }
        handler.advance()
      }
    }
    return request.hasEnded
  }

  /// Takes bytes out of what has arrived: the whole array, if nothing stands behind them.
  private func piece(of count: Int) -> BodyPiece {
    let range = start..<start + count
    guard count > 0 else { return BodyPiece([], 0..<0) }
    guard range.upperBound == input.count else {
      start = range.upperBound
      return BodyPiece(Array(input[range]), 0..<count)
    }
    let piece = BodyPiece(input, range)
    (input, spare, start) = (spare, [], 0)
    parser.restart()
    return piece
  }

  /// Whether a request will most likely be done sooner than a change of threads would take: reading what the system has in
  /// memory. A read that turned out to be slow sends those of the next seconds to the workers.
  private func isQuick(_ request: CurrentRequest) -> Bool {
    (request.operation == .load || request.operation == .info) && request.isWarm && shared.pace.isQuick
  }

  /// Runs a job on a worker, and what it returns on the event loop, unless the connection is gone by then. One that is
  /// known to be quick runs at once.
  private func work(
    _ request: CurrentRequest, isQuick: Bool = false,
    _ job: @escaping @Sendable () -> @Sendable (ConnectionHandler) -> Void
  ) {
    let loop = eventLoop
    request.isWorking = true
    expect(within: nil)
    if isQuick {
      let began = NIODeadline.now()
      let then = job()
      shared.pace.note(since: began)
      request.isWorking = false
      return then(self)
    }
    shared.workers.submit { [self] in
      let then = job()
      loop.execute { [self] in
        request.isWorking = false
        if isGone { giveUp(request) } else { then(self) }
      }
    }
  }

  // MARK: Its answer

  private func answer(_ request: CurrentRequest, _ answer: Answer, _ block: ByteBuffer, isWhole: Bool) {
    guard let context else { return }
    phase = .waiting
    request.status = answer.status
    if isDraining || isInputClosed { request.keepsAlive = false }
    let isOld = !request.head.keepsAlive || request.head.request.value("connection") != nil
    let head = ResponseText.head(
      answer, date: now(), keepsAlive: request.keepsAlive, saysKeepAlive: isOld && request.keepsAlive)
    var block = block
    if request.refusal != nil, request.head.request.method != .head, case .bytes(let bytes) = answer.body {
      block.writeBytes(bytes)
    }
    request.sent += block.readableBytes
    var buffer = context.channel.allocator.buffer(
      capacity: head.utf8.count + (block.readableBytes <= 4096 ? block.readableBytes : 0))
    buffer.writeString(head)
    if block.readableBytes <= 4096 {
      buffer.writeBuffer(&block)
      context.writeAndFlush(wrapOutboundOut(buffer), promise: nil)
    } else {
      context.write(wrapOutboundOut(buffer), promise: nil)
      context.writeAndFlush(wrapOutboundOut(block), promise: nil)
    }
    if isWhole { finish(request) } else { stream(request) }
  }

  /// Has the next block read as soon as the client has taken enough of those before it.
  private func stream(_ request: CurrentRequest) {
    guard let context, let execution = request.execution, !request.isWorking else { return }
    guard context.channel.isWritable else {
      request.waitsForClient = true
      return expect(within: limits.answerTime)
    }
    request.waitsForClient = false
    work(request) {
      let next = execution.next()
      return { handler in
        guard let (block, isLast) = next else { return handler.fail(request) }
        request.sent += block.readableBytes
        handler.context?.writeAndFlush(handler.wrapOutboundOut(block), promise: nil)
        if isLast { handler.finish(request) } else { handler.stream(request) }
        handler.advance()
      }
    }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if let request, request.waitsForClient, context.channel.isWritable { stream(request) }
    context.fireChannelWritabilityChanged()
  }

  /// What was announced cannot be sent: the client has to see that something is missing.
  private func fail(_ request: CurrentRequest) {
    shared.log.write(
      .error, "an object could not be read to its end",
      ["connection": .number(number), "path": .text(request.head.request.path.shortened)])
    giveUp(request)
    context?.close(promise: nil)
  }

  private func finish(_ request: CurrentRequest) {
    end(request)
    if request.lingers {
      linger()
    } else if !request.keepsAlive {
      closeWhenWritten()
      expect(within: limits.answerTime)
    } else {
      phase = .head
      expect(within: start < input.count ? limits.headTime : limits.keepAliveTime)
    }
  }

  /// Ends a request that gets no answer, or not all of it.
  private func giveUp(_ request: CurrentRequest) {
    if let execution = request.execution {
      shared.workers.submit { execution.abandon() }
    }
    request.status = 0
    end(request)
  }

  /// Writes what is to be written about a request, once.
  private func end(_ request: CurrentRequest) {
    guard !request.hasEnded else { return }
    request.hasEnded = true
    self.request = nil
    if let name = request.repository { shared.registry.leave(name) }
    let seconds = Double((NIODeadline.now() - request.began).nanoseconds) / 1e9
    shared.metrics.count(
      request.operation, status: request.status, received: request.received, sent: request.sent,
      seconds: seconds)
    guard shared.front.current.configuration.log.access else { return }
    let head = request.head.request
    shared.log.write(
      .info, "request",
      [
        "connection": .number(number), "address": .text(request.origin.address),
        "user": request.user.map { .text($0) },
        "operation": .text(request.operation.rawValue),
        "path": .text((head.query.isEmpty ? head.path : "\(head.path)?\(head.query)").shortened),
        "status": .number(request.status), "received": .number(request.received),
        "sent": .number(request.sent),
        "ms": .milliseconds(seconds * 1000),
      ])
  }

  private func now() -> String {
    let seconds = Int(Clock.seconds())
    if seconds != date.seconds { date = (seconds, Clock.http(seconds)) }
    return date.text
  }
}

/// A piece of a body on its way to a worker and back.
///
/// `@unchecked Sendable`: the worker has it first, the event loop afterwards.
private final class BodyPiece: @unchecked Sendable {
  var bytes: [UInt8]
  let range: Range<Int>

  init(_ bytes: [UInt8], _ range: Range<Int>) { (self.bytes, self.range) = (bytes, range) }
}

/// The request that a connection is about. A class because several steps change it.
///
/// `@unchecked Sendable`: touched on the connection's event loop only.
private final class CurrentRequest: @unchecked Sendable {
  let head: NetworkHead
  let origin: Origin
  let began = NIODeadline.now()
  var operation: Operation
  var user: String?
  var repository: RepositoryName?
  var execution: Execution?
  /// What is answered when the body is dropped, if it was refused for its head.
  var refusal: Answer?
  /// Bytes of the body that nobody has taken yet.
  var bodyLeft: Int
  var keepsAlive: Bool
  /// Whether bytes may come behind the answer that nobody reads.
  var lingers = false
  /// Whether its repository was in use before.
  var isWarm = false
  var isWorking = false
  var waitsForClient = false
  var hasEnded = false
  var received = 0
  var sent = 0
  var status = 0

  /// Bytes of a refused body that are taken for the sake of the connection.
  static let dropLimit = 128 << 20

  init(_ head: NetworkHead, origin: Origin) {
    (self.head, self.origin) = (head, origin)
    (bodyLeft, keepsAlive) = (head.request.contentLength, head.keepsAlive)
    operation = Operation(method: head.request.method, path: head.request.path, query: head.request.query)
  }
}

/// A page of our own.
private final class PageExchange: Exchange {
  private let text: @Sendable () -> String

  init(_ text: @escaping @Sendable () -> String) { self.text = text }

  func receive(_ bytes: [UInt8], _ range: Range<Int>) {}

  func finish() -> Answer {
    Answer(
      status: 200,
      fields: [("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Cache-Control", "no-store")],
      body: .bytes(Array(text().utf8)))
  }

  func abandon() {}
}
