mod header;
mod stage;
