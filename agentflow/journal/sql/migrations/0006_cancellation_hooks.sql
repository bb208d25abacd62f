-- Whether the flow of a run has hooks on its cancellation, which only a process with its code can run.
ALTER TABLE run ADD COLUMN on_cancellation INTEGER NOT NULL DEFAULT 0;
