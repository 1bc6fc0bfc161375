/// Who holds the locks of a process's sessions, as other Borg processes are to see it, and how it judges theirs.
///
/// One for each process: sessions that have copies of one value know of each other's locks, which in the repository look
/// all the same.
public struct LockIdentity: Sendable {
  /// May block on the name service the first time.
  let hostID: @Sendable () -> String
  let processID: Int
  let processIsAlive: @Sendable (Int) -> Bool
  let sessions = SessionLocks()

  /// The process table is the machine's unless a test brings its own.
  public init(
    hostID: @escaping @Sendable () -> String, processID: Int,
    processIsAlive: @escaping @Sendable (Int) -> Bool
  ) {
    (self.hostID, self.processID, self.processIsAlive) = (hostID, processID, processIsAlive)
  }
}
