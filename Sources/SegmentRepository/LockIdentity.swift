/// Who holds the locks of a session, as other Borg processes are to see it, and how it judges theirs.
public struct LockIdentity: Sendable {
  /// May block on the name service the first time.
  let hostID: @Sendable () -> String
  let processID: Int
  let processIsAlive: @Sendable (Int) -> Bool

  /// The process table is the machine's unless a test brings its own.
  public init(
    hostID: @escaping @Sendable () -> String, processID: Int,
    processIsAlive: @escaping @Sendable (Int) -> Bool
  ) {
    (self.hostID, self.processID, self.processIsAlive) = (hostID, processID, processIsAlive)
  }
}
