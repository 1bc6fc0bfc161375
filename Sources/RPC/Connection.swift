public import BorgFormat
public import Disk
import Session
import Synchronization

/// Which protocol a client speaks.
public enum Dialect: Equatable, Sendable {
  /// Borg 1.x, and older.
  case borg1
  /// Borg 2.
  case borg2
}

/// One client's connection, whatever it speaks: its first message decides, and nothing is said before.
///
/// A MessagePack array is Borg 1.x. A map is read to its end: a `negotiate` of a client of major version 1 is Borg 1.x as
/// well, everything else is Borg 2's to answer, or to refuse. A class because the thread that watches for signals ends
/// what another one reads.
public final class Connection: Sendable {
  private let input: ByteInput
  private let borg1: Borg1Connection
  private let borg2: RPCConnection
  private let decision = Mutex<Dialect?>(nil)

  public init(input: ByteInput, output: ByteOutput, configuration: RPCConnection.Configuration) {
    self.input = input
    borg1 = Borg1Connection(input: input, output: output, configuration: configuration)
    borg2 = RPCConnection(input: input, output: output, configuration: configuration)
  }

  /// What the client turned out to speak; nil as long as it has not said enough.
  public var dialect: Dialect? { decision.withLock { $0 } }

  /// Sends the client a record as soon as it is known to understand one.
  public func log(_ level: LogLevel, _ logger: Logger, _ message: String) {
    if dialect != .borg2 { borg1.reporter.log(level, logger, message) }
    if dialect != .borg1 { borg2.log(level, logger, message) }
  }

  /// Ends the connection from another thread, also before it runs: what has begun is completed, lock waits and checks
  /// are stopped.
  public func interrupt() {
    if dialect != .borg2 { borg1.interrupt() }
    if dialect != .borg1 { borg2.interrupt() }
  }

  /// The periodic work, called every half second or so from another thread.
  public func tick() {
    // Until a client has said anything the time that it may be silent is the same in both.
    switch dialect {
    case .borg1: borg1.tick()
    case .borg2, nil: borg2.tick()
    }
  }

  /// Serves until the connection ends. Blocking. See `RPCConnection.run`.
  public func run(patience: Duration = .seconds(1)) -> ConnectionEnd {
    var arrived: [UInt8] = []
    var needed = 1
    while true {
      if let dialect = Self.dialect(of: arrived, &needed) {
        decision.withLock { $0 = dialect }
        switch dialect {
        case .borg1: return borg1.run(after: arrived, patience: patience)
        case .borg2: return borg2.run(after: arrived, patience: patience)
        }
      }
      do {
        let room = max(needed - arrived.count, Limits.readBlock)
        switch try input.read(into: &arrived, room: room) {
        case .bytes: continue
        // What has arrived is no message yet, or nothing at all.
        case .end: return .closed
        case .interrupted: return borg2.isIdle ? .idle : .interrupted
        }
      } catch {
        borg2.tell("reading from the client failed: \(error)")
        return .broken
      }
    }
  }

  /// What the client speaks; nil if more than the bytes at hand, `needed` of them at least, has to be seen.
  static func dialect(of arrived: [UInt8], _ needed: inout Int) -> Dialect? {
    guard let first = arrived.first else { return nil }
    switch first {
    case 0x90...0x9f, 0xdc, 0xdd: return .borg1
    case 0x80...0x8f, 0xde, 0xdf: break
    default: return .borg2
    }
    guard arrived.count >= needed else { return nil }
    // What is wrong with it Borg 2 will say.
    guard let outcome = try? RPCRequestParser.parse(arrived, from: 0) else { return .borg2 }
    switch outcome {
    case .incomplete(let wanted):
      needed = wanted
      return nil
    case .large: return .borg2
    case .request(let request, _):
      guard request.method == "negotiate", case .encoded(let range)? = request.value("client_data") else {
        return .borg2
      }
      return ClientData.version(in: arrived, range)?.parts.first == 1 ? .borg1 : .borg2
    }
  }

  /// Tells a client of Borg 1.x, on its log, why the server ends, in the original's words; others are not told.
  public func tellEnd(_ end: ConnectionEnd, signal: EndSignal?) {
    guard dialect == .borg1 else { return }
    switch (signal, end) {
    case (.terminate, _):
      borg1.reporter.log(.error, .archiver, "Received SIGTERM", messageID: "Signal.SIGTERM")
    case (.hangup, _):
      borg1.reporter.log(.error, .archiver, "Received SIGHUP.", messageID: "Signal.SIGHUP")
    case (.interrupt, _): borg1.reporter.log(.error, .archiver, "Keyboard interrupt", messageID: nil)
    case (nil, .fault(.notAMap)):
      borg1.reporter.log(
        .error, .archiver, "Borg 1.4.5: Got unexpected RPC data format from client.",
        messageID: "UnexpectedRPCDataFormatFromClient")
    case (nil, .fault(.malformed(let reason))):
      borg1.reporter.log(.error, .archiver, "The client's request cannot be read: \(reason)", messageID: nil)
    case (nil, .closed), (nil, .interrupted), (nil, .broken), (nil, .idle): break
    }
  }
}

/// A signal that ends a server.
public enum EndSignal: Equatable, Sendable {
  case terminate
  case hangup
  case interrupt
}
