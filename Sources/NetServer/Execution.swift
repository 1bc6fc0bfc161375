import BorgFormat
import NIOCore
import REST
import Storage

/// A request being executed: what threads that may block do for a connection.
///
/// `@unchecked Sendable`: the connection has one thread at a time at it.
final class Execution: @unchecked Sendable {
  private let begin: () -> any Exchange
  private var exchange: (any Exchange)?
  private var reader: AnswerReader?

  init(_ begin: @escaping @Sendable () -> any Exchange) { self.begin = begin }

  /// What came of a piece of the body.
  enum Outcome: Sendable {
    case more
    /// The answer, and the first bytes of its body; whether these are all.
    case answered(Answer, ByteBuffer, isWhole: Bool)
    case failed
  }

  /// Takes a piece, the first of which begins the exchange and the last of which ends it. Blocking.
  func take(_ bytes: [UInt8], _ range: Range<Int>, isLast: Bool, withBody: Bool) -> Outcome {
    let exchange = exchange ?? begin()
    self.exchange = exchange
    if !range.isEmpty { exchange.receive(bytes, range) }
    guard isLast else { return .more }
    let answer = exchange.finish()
    self.exchange = nil
    guard withBody, answer.contentLength > 0 else { return .answered(answer, ByteBuffer(), isWhole: true) }
    let reader = AnswerReader(answer)
    guard let block = reader.next() else { return .failed }
    self.reader = reader
    return .answered(answer, block, isWhole: reader.isAtEnd)
  }

  /// The next bytes of the answer's body, and whether they are the last; nil if they cannot be read. Blocking.
  func next() -> (ByteBuffer, isLast: Bool)? {
    guard let reader, let block = reader.next() else { return nil }
    return (block, reader.isAtEnd)
  }

  /// Gives it up. Blocking.
  func abandon() {
    exchange?.abandon()
    (exchange, reader) = (nil, nil)
  }
}

/// Reads an answer's body block by block; many small pieces of objects make one block.
private final class AnswerReader {
  private var bytes: ArraySlice<UInt8> = []
  private var pieces: ArraySlice<Answer.Piece> = []
  /// How much of the first piece has been read.
  private var done = 0
  private var scratch: [UInt8] = []

  init(_ answer: Answer) {
    switch answer.body {
    case .none: break
    case .bytes(let bytes): self.bytes = bytes[...]
    case .pieces(let pieces): self.pieces = pieces[...]
    }
  }

  var isAtEnd: Bool { bytes.isEmpty && pieces.isEmpty }

  /// Nil if an object cannot be read, or is shorter than it was.
  func next() -> ByteBuffer? {
    if !bytes.isEmpty {
      let block = bytes.prefix(NetworkLimits.block)
      bytes = bytes.dropFirst(block.count)
      return ByteBuffer(bytes: block)
    }
    var buffer = ByteBuffer()
    while let piece = pieces.first, buffer.readableBytes < NetworkLimits.block {
      let wanted = min(piece.count - done, NetworkLimits.block - buffer.readableBytes)
      guard wanted > 0 else {
        (pieces, done) = (pieces.dropFirst(), 0)
        continue
      }
      if scratch.count != wanted { scratch = [UInt8](repeating: 0, count: wanted) }
      guard let count = try? piece.object.read(at: piece.offset + done, into: &scratch), count > 0 else {
        return nil
      }
      if count == scratch.count { buffer.writeBytes(scratch) } else { buffer.writeBytes(scratch[..<count]) }
      done += count
      if done == piece.count { (pieces, done) = (pieces.dropFirst(), 0) }
    }
    return buffer
  }
}
