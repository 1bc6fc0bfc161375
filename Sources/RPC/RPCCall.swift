import BorgFormat
import Storage
import Synchronization

/// A request with what was spooled of it, and typed access to its arguments.
///
/// Missing or mistyped arguments throw `argumentType`, where the original raises `TypeError`; arguments that
/// no method knows are ignored.
struct RPCCall: Sendable {
  let request: RPCRequest
  /// One for each hole.
  let values: [SpooledValue]

  func bool(_ name: StaticString, default value: Bool = false) throws(ServeError) -> Bool {
    switch request.value(name) {
    case nil: value
    case .nil: false
    case .bool(let value): value
    case .int(let value): value != 0
    default: throw wrongType(name, "a bool")
    }
  }

  /// A number of seconds from 0 to some 30 years; nil if it is nil or missing.
  func duration(_ name: StaticString) throws(ServeError) -> Duration? {
    let longest = Int64(1_000_000_000)
    switch request.value(name) {
    case nil, .nil: return nil
    case .bool(let value): return .seconds(value ? 1 : 0)
    case .int(let value): return .seconds(min(max(value, 0), longest))
    case .float(let value):
      guard value > 0 else { return .zero }
      // Rounded up: the shortest time is still one, where zero means another mode of `check`.
      return .nanoseconds(Int64((min(value, Double(longest)) * 1e9).rounded(.up)))
    default: throw wrongType(name, "a number")
    }
  }

  func int(_ name: StaticString) throws(ServeError) -> Int64? {
    switch request.value(name) {
    case nil, .nil: nil
    case .int(let value): value
    default: throw wrongType(name, "an int")
    }
  }

  func double(_ name: StaticString) throws(ServeError) -> Double? {
    switch request.value(name) {
    case nil, .nil: nil
    case .int(let value): Double(value)
    case .float(let value): value
    default: throw wrongType(name, "a number")
    }
  }

  func text(_ name: StaticString) throws(ServeError) -> String {
    guard let text = try optionalText(name) else { throw missing(name) }
    return text
  }

  func optionalText(_ name: StaticString) throws(ServeError) -> String? {
    switch request.value(name) {
    case nil, .nil: return nil
    case .string(let range): return String(decoding: request.block[range], as: UTF8.self)
    default: throw wrongType(name, "a str")
    }
  }

  /// A file name: a string or binary of any bytes.
  func path(_ name: StaticString) throws(ServeError) -> [UInt8] {
    switch request.value(name) {
    case nil: throw missing(name)
    case .string(let range), .binary(let range): return Array(request.block[range])
    default: throw wrongType(name, "a str")
    }
  }

  func name(_ argument: StaticString, deleted: Bool = false) throws(ServeError) -> StoreName {
    try StoreName(parsing: text(argument), isDeleted: deleted)
  }

  /// The id in a binary of 32 bytes; nil if it has another length, so that no object can have it.
  func id(_ name: StaticString) throws(ServeError) -> ObjectID? {
    switch request.value(name) {
    case nil: throw missing(name)
    case .binary(let range): return ObjectID(request.block.span.extracting(range))
    default: throw wrongType(name, "bytes")
    }
  }

  /// The id in hex for a message, whatever its length.
  func idText(_ name: StaticString) -> String {
    guard case .binary(let range)? = request.value(name) else { return "" }
    return Hex.string(request.block.span.extracting(range.prefix(64)))
  }

  func isNil(_ name: StaticString) -> Bool {
    switch request.value(name) {
    case nil, .nil: true
    default: false
    }
  }

  /// What is to be stored, and its size.
  func content(_ name: StaticString, limit: Int) throws(ServeError) -> (ObjectContent, size: Int) {
    switch request.value(name) {
    case nil: throw missing(name)
    case .binary(let range): return (.bytes(request.block, range), range.count)
    case .spooled(let hole, let length, isBinary: true):
      guard length <= limit else {
        throw .integrity("More than allowed \(request.method) \(name) [\(length) > \(limit)]")
      }
      return (.upload(try values[hole].take()), length)
    default: throw wrongType(name, "bytes")
    }
  }

  /// Gives up what was spooled: all of it after a failure, else what no argument asked for.
  func abandonValues(all: Bool) {
    for value in values { value.abandon(unlessTaken: !all) }
  }

  private func missing(_ name: StaticString) -> ServeError {
    .argumentType("\(request.method.shortened)() missing 1 required argument: '\(name)'")
  }

  private func wrongType(_ name: StaticString, _ type: String) -> ServeError {
    .argumentType("\(request.method.shortened)() argument '\(name)' must be \(type)")
  }
}

/// A large value that was moved out of the stream while it arrived.
///
/// A class because the reader fills it and a worker takes it.
final class SpooledValue: Sendable {
  private let upload: Result<any Upload, ServeError>
  private let isTaken = Mutex(false)

  /// A value that nobody wanted, or could store, has the reason in place of its bytes.
  init(_ upload: Result<any Upload, ServeError>) {
    self.upload = upload
  }

  func append(_ bytes: [UInt8], _ range: Range<Int>) {
    if case .success(let upload) = upload { upload.append(bytes, range) }
  }

  func take() throws(ServeError) -> any Upload {
    isTaken.withLock { $0 = true }
    return try upload.get()
  }

  func abandon(unlessTaken: Bool) {
    guard case .success(let upload) = upload, !unlessTaken || !isTaken.withLock({ $0 }) else { return }
    upload.abandon()
  }
}
