import BorgFormat
import ContentHash
import Storage

/// An exchange whose body, if there is any, is small or of no interest.
///
/// `@unchecked Sendable`: one thread at a time drives an exchange.
final class ShortExchange: Exchange, @unchecked Sendable {
  private let work: ([UInt8]) -> Answer
  /// Bytes of the body that are kept; more of them are refused. Nil if it is of no interest.
  private let limit: Int?
  private var body: [UInt8] = []
  private var isTooLong = false

  /// `work` answers when all of the body is there.
  init(limit: Int? = nil, _ work: @escaping ([UInt8]) -> Answer) {
    (self.limit, self.work) = (limit, work)
  }

  func receive(_ bytes: [UInt8], _ range: Range<Int>) {
    guard let limit, !isTooLong else { return }
    if body.count + range.count > limit { (body, isTooLong) = ([], true) } else { body += bytes[range] }
  }

  func finish() -> Answer {
    if isTooLong, let limit { return Answer(Refusal(413, "the body has more than \(limit) bytes")) }
    return work(body)
  }

  func abandon() { body = [] }
}

/// An object that is being stored.
///
/// `@unchecked Sendable`: one thread at a time drives an exchange.
final class StoreExchange: Exchange, @unchecked Sendable {
  /// What is known to be stored where, or why it is not.
  private let target: Result<Target, Refusal>
  private let arrival: Arrival?
  /// For a body that goes nowhere: its hash is looked at all the same, first of all.
  private var hashers: ContentHashers
  private let expectedHash: String?
  private let access: Access
  private var failure: Refusal?

  struct Target {
    let store: any PathStore
    let path: StorePath
  }

  init(_ target: Result<Target, Refusal>, size: Int, expectedHash: String?, access: Access) {
    (self.target, self.expectedHash, self.access) = (target, expectedHash, access)
    let given: [HashAlgorithm] = expectedHash == nil ? [] : [.sha256]
    switch target {
    case .success(let target):
      let needed = access.algorithms(for: target.path)
      arrival = Arrival(target.path, in: target.store, size: size, hashedBy: needed.isEmpty ? given : needed)
      hashers = ContentHashers([])
    case .failure:
      arrival = nil
      hashers = ContentHashers(given)
    }
  }

  func receive(_ bytes: [UInt8], _ range: Range<Int>) {
    guard let arrival else { return hashers.update(bytes, range) }
    guard failure == nil else { return }
    do {
      try arrival.append(bytes, range)
    } catch {
      failure = Refusal(error)
      arrival.abandon()
    }
  }

  func finish() -> Answer {
    do throws(Refusal) {
      if let failure { throw failure }
      try verifyHash()
      let target = try target.get()
      try store(target)
      return .success()
    } catch {
      arrival?.abandon()
      return Answer(error)
    }
  }

  private func verifyHash() throws(Refusal) {
    guard let expectedHash else { return }
    let digest = arrival.map { $0.digest(by: .sha256) } ?? hashers.digest(by: .sha256)
    // Only lower case is what the original writes, and takes.
    if let digest, digest.hex == expectedHash { return }
    throw Refusal(422, "Content hash verification failed, please retry")
  }

  private func store(_ target: Target) throws(Refusal) {
    guard let arrival else { return }
    let digests = HashAlgorithm.allCases.compactMap { arrival.digest(by: $0) }
    try access.store(
      Access.Candidate(path: target.path, content: arrival.take(), size: arrival.size, digests: digests),
      in: target.store)
  }

  func abandon() { arrival?.abandon() }
}
